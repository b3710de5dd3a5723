"""Tables of scores, as the commands print them."""

from typing import Any


def print_scores(metrics: dict[str, Any]) -> None:
    """Print the tables of a run's dev and test scores, where it has them."""
    for split in ("dev", "test"):
        if split in metrics:
            print(f"\n{split} ({metrics['method']}, seed {metrics['seed']})")
            print(score_table({metrics["method"]: metrics[split]}))
            for name, own in metrics[split].get("sets", {}).items():
                shown = (100 * own["micro"][key] for key in ("precision", "recall", "f1"))
                print("{}: P {:.1f}, R {:.1f}, F1 {:.1f}".format(name, *shown))
            print(breakdown_table(metrics[split]), end="")


def score_table(columns: dict[str, dict[str, Any]]) -> str:
    """Precision, recall and F1 in percent by entity type and overall, a column group per system."""
    types = sorted({label for scores in columns.values() for label in scores["per_type"]})
    head = (
        f"{'':<12}"
        + "".join(f"{name + ' P':>10}{'R':>7}{'F1':>7}" for name in columns)
        + f"{'gold':>7}"
    )
    lines = [head]
    empty = {"precision": 0.0, "recall": 0.0, "f1": 0.0, "gold": 0}
    for label in [*types, "micro", "macro"]:
        line, gold = f"{label:<12}", ""
        for scores in columns.values():
            entry = (
                scores[label]
                if label in ("micro", "macro")
                else scores["per_type"].get(label, empty)
            )
            line += f"{100 * entry['precision']:>10.1f}{100 * entry['recall']:>7.1f}"
            line += f"{100 * entry['f1']:>7.1f}"
            gold = str(entry.get("gold", ""))
        lines.append(line + f"{gold:>7}")
    return "\n".join(lines)


def breakdown_table(scores: dict[str, Any]) -> str:
    """Errors by kind, calibration error, and scores of groups of mentions (nesting, seen, length).

    Parts that `scores` does not have are left out.
    """
    lines = []
    if "unseen_types" in scores:
        named = ", ".join(f"{label} {count}" for label, count in scores["unseen_types"].items())
        lines += ["", f"types that the model does not know, counted as missed: {named}"]
    if "errors" in scores:
        sides = scores["errors"]
        lines += ["", f"{'errors':<20}{'predictions':>12}{'gold':>7}"]
        for name in dict.fromkeys([*sides["predictions"], *sides["gold"]]):
            lines.append(
                f"{name.replace('_', ' '):<20}{sides['predictions'].get(name, '-'):>12}"
                f"{sides['gold'].get(name, '-'):>7}"
            )
    if "calibration" in scores:
        lines += ["", f"calibration error of the scores {100 * scores['calibration']['ece']:.1f} %"]
    groups = {
        f"{name} mentions": scores[name]
        for name in ("outer", "inner")
        if scores.get("inner", {}).get("gold")
    }
    groups |= {f"{name} in train": scores[name] for name in ("seen", "unseen") if name in scores}
    if scores.get("recurring_texts"):
        groups[f"{scores['new_texts']['texts']} new texts"] = scores["new_texts"]
    groups |= {
        f"{name} character{'s' * (name != '1')}": entry
        for name, entry in scores.get("lengths", {}).items()
    }
    if groups:
        lines += ["", f"{'mentions':<20}{'P':>7}{'R':>7}{'F1':>7}{'gold':>7}"]
    for name, entry in groups.items():
        if entry["gold"] or entry["predicted"]:
            percent = "".join(f"{100 * entry[key]:>7.1f}" for key in ("precision", "recall", "f1"))
            lines.append(f"{name:<20}{percent}{entry['gold']:>7}")
    return "".join(f"{line}\n" for line in lines)
