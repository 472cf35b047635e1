"""Texts of the configuration that stand for numbers, where numbers are wanted.

YAML 1.1 takes 5e6 for a text, and Snakemake every value within a section that is given on the
command line, as in ``--config 'sampling={steps: 4}'``.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

WHOLE = re.compile(r"[+-]?[0-9]+", re.ASCII)
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)
BOOLEAN = {"true": True, "false": False}


def convert(config: dict[str, Any], rules: Mapping[str, Any]) -> None:
    """Replace texts, in place, by the numbers and truth values that the schema wants instead.

    What is not exactly the text of one is left for the schema to refuse.

    Parameters
    ----------
    config : dict
        The configuration; a variant's settings are as its method's.
    rules : mapping
        Its JSON schema.
    """
    methods = rules["properties"]["methods"]["properties"]
    variants = config.get("variants")
    _converted(config, rules, rules)
    for variant in variants.values() if isinstance(variants, dict) else ():
        method = variant.get("method") if isinstance(variant, dict) else None
        if isinstance(method, str) and method in methods:
            _converted(variant, methods[method], rules)


def _converted(value: Any, rule: Mapping[str, Any], rules: Mapping[str, Any]) -> Any:
    if "$ref" in rule:
        rule = rules["$defs"][rule["$ref"].removeprefix("#/$defs/")]
    if isinstance(value, dict):
        others = rule.get("additionalProperties")
        for key in value:
            own = rule.get("properties", {}).get(key, others)
            if isinstance(own, dict):
                value[key] = _converted(value[key], own, rules)
    elif isinstance(value, list) and "items" in rule:
        value[:] = [_converted(entry, rule["items"], rules) for entry in value]
    elif isinstance(value, str):
        kinds = rule.get("type", [])
        return _from_text(value, [kinds] if isinstance(kinds, str) else kinds)
    return value


def _from_text(text: str, kinds: Sequence[str]) -> Any:
    if "null" in kinds and text.lower() in ("null", "none"):
        return None
    if {"integer", "number"} & {*kinds} and WHOLE.fullmatch(text) and len(text) < 100:
        return int(text)
    if "number" in kinds and NUMBER.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    return BOOLEAN.get(text.lower(), text) if "boolean" in kinds else text
