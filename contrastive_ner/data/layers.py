"""Several tags in one cell, such as B-ORG|B-GPE: layers of tags, as nested mentions have."""

from collections.abc import Mapping, Sequence

from contrastive_ner.data.schemes import OUTSIDE, ROLES, Pair, read_tags

SEPARATORS = "|+"


def separator_of(tags: Mapping[str, int]) -> str:
    """What stands between several tags in a cell, as in B-ORG|B-GPE; "" if each has one tag.

    A type may contain the sign itself. Then what follows the sign is not a tag, or its prefix is
    one that no other cell has.

    Args:
        tags: with their numbers.
    """
    for separator in SEPARATORS:
        stacked = {part for tag in tags if separator in tag for part in tag.split(separator)}
        if not stacked:
            continue
        alone = {tag for tag in tags if separator not in tag}
        pairs, spelling = read_tags(dict.fromkeys(stacked | alone, 1))
        if spelling in ("PER", "B") or not stacked | alone <= pairs.keys():
            continue
        usual = {pairs[tag][0] for tag in alone} - {"O"} or {"B", "I"}
        if {pairs[part][0] for part in stacked} <= {*usual, "O", "B"}:
            return separator
    return ""


def unstacked(tags: Sequence[str], separator: str = "|") -> list[list[str]]:
    """Layers of tags, one tag a token, from cells that may hold several.

    A tag that continues a mention goes to the layer in which a mention of its type is open, any
    other one to the first layer that is free, so that their order in a cell does not matter.

    >>> unstacked(["B-ORG", "B-GPE|I-ORG", "O"])
    [['B-ORG', 'I-ORG', 'O'], ['O', 'B-GPE', 'O']]
    """
    cells = [cell.split(separator) for cell in tags]
    pairs: dict[str, Pair] = read_tags({part: 1 for cell in cells for part in cell})[0]
    layers: list[list[str]] = []
    for i, cell in enumerate(cells):
        begun = []  # tags that continue no open mention
        for part in (part for part in cell if pairs.get(part, OUTSIDE) != OUTSIDE):
            place = next((n for n, own in enumerate(layers) if _goes_on(own, i, pairs, part)), None)
            if place is None:
                begun.append(part)
            else:
                layers[place].append(part)
        for part in begun:
            free = next((own for own in layers if len(own) == i), None)
            if free is None:
                layers.append(free := ["O"] * i)
            free.append(part)
        for layer in layers:
            layer += ["O"] * (i + 1 - len(layer))
    return layers or [["O"] * len(cells)]


def _goes_on(layer: Sequence[str], i: int, pairs: Mapping[str, Pair], part: str) -> bool:
    """Whether a layer without a tag for token `i` has an open mention that a tag continues."""
    prefix, label = pairs[part]
    if len(layer) != i or not layer or ROLES[prefix] not in (1, 2):
        return False
    before, open_label = pairs.get(layer[-1], OUTSIDE)
    return before != "O" and ROLES[before] in (0, 1) and open_label == label
