import pytest
import yaml
from test_models_support import settings

from models import METHODS
from models.method import Method
from models.summary import main, parameter_counts
from pipeline.errors import InputError

PAPER = {"size": 256, "width": 64, "multipliers": [1, 2, 4, 8], "heads": 4, "head_dim": 32}
COUNTS = {"PnPNet": 33_550_209, "LegoPET": 35_708_225}


def paper():
    return {**settings(), "network": PAPER}


def test_counts_of_the_paper():
    assert parameter_counts(paper()) == COUNTS


def test_every_method_is_listed(tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(paper()))
    main(config)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [[name, str(COUNTS[name])] for name in METHODS]


def test_a_missing_method_is_named():
    config = paper()
    del config["methods"]["LegoPET"]
    with pytest.raises(InputError, match="lacks LegoPET"):
        parameter_counts(config)


def test_every_method_implements_the_interface():
    assert all(issubclass(method, Method) for method in METHODS.values())
