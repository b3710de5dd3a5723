"""Contrastive named-entity recognition for transformers: NerCo (IJCAI 2023), BINDER (ICLR 2023).

`__init__.pyi` lists the public names. Each is imported when it is first used, so that
`import contrastive_ner` loads no torch. docs/architecture.md describes the rooms of the package.
"""

import lazy_loader

__version__ = "0.2.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
