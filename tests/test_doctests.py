"""The examples in docstrings are correct."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "name",
    [
        "data.conll2012",
        "data.dictionary",
        "data.records",
        "data.schemes",
        "data.webanno",
        "training.losses",
        "evaluation.metrics",
        "models.windows_ner",
        "training.calibration",
        "serving.demo",
    ],
)
def test_examples_in_docstrings(name):
    failed, tried = doctest.testmod(importlib.import_module(f"contrastive_ner.{name}"))
    assert tried > 0
    assert failed == 0
