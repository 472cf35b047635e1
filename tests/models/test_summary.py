import pytest

from helpers.configurations import changed
from models.methods.base import Method
from models.registry import METHODS, load
from models.summary import discriminator_counts, main, parameter_counts
from pipeline.storage.errors import InputError

COUNTS = {
    "PnPNet": 33_550_209,
    "cDPM": 35_708_225,
    "LegoPET": 35_708_225,
    "PMDM": 35_708_225,
    "DeepPET": 11_019_553,
    "cGAN": 11_370_881,
    "Pix2Pix": 11_370_881,
    "cGAN discriminator": 2_764_609,
    "Pix2Pix discriminator": 2_764_609,
}


def test_counts_of_the_changed():
    found = parameter_counts(changed()) | discriminator_counts(changed())
    assert found | COUNTS == found


def test_every_method_is_listed(capsys):
    main()
    lines = [line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert {name: int(count) for name, count in lines}.items() >= COUNTS.items()
    assert [name for name, _ in lines][: len(METHODS)] == list(METHODS)


def test_a_missing_method_is_named():
    config = changed()
    del config["methods"]["LegoPET"]
    with pytest.raises(InputError, match="lacks LegoPET"):
        parameter_counts(config)


def test_every_method_implements_the_interface():
    assert all(issubclass(method, Method) for method in map(load, METHODS))
