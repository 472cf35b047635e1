"""What the check of the configuration accepts can be trained and sampled; what it refuses, not."""

import tempfile
from pathlib import Path

import ptwt
import pytest
import pywt
import torch
import yaml
from hypothesis import HealthCheck, Phase, assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from helpers.configurations import ROOT, SCHEMA, changed, check_refused, merged, refusal
from helpers.small_models import job, make_shard
from models.reconstruct import reconstruct
from models.sections import frozen_of
from models.training.train import train
from pipeline.jobs.config import check
from pipeline.jobs.config_models import most_levels
from pipeline.jobs.experiment import models_of
from pipeline.storage.errors import InputError
from pipeline.tomography.scanners import scanner_from

WAVELETS = pywt.wavelist(kind="discrete")


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    """The configuration names its table of subjects relative to the project."""
    monkeypatch.chdir(ROOT)


@pytest.fixture
def folder(tmp_path):
    """With the tables of subjects for `tiny`, with one or two to train on."""
    return tmp_path


def tiny(folder, subjects=1, **changes):
    """Merge tests/tiny.yaml and changes like ``network__width=4`` into the paper's configuration.

    It has so many training subjects, one to validate on and one to test.
    """
    rows = [*["train"] * subjects, "validation", "test"]
    lines = [f"subject{n:02}\t{split}\t-" for n, split in enumerate(rows)]
    table = Path(folder) / "subjects.tsv"
    table.write_text("\n".join(["subject\tsplit\tlabels_sha256", *lines, ""]))
    config = merged(changed(), yaml.safe_load((ROOT / "tests" / "tiny.yaml").read_text()))
    config["subjects"] = str(table)
    for path, value in changes.items():
        *sections, key = path.split("__")
        section = config
        for name in sections:
            section = section.setdefault(name, {})
        section[key] = value
    return config


def sized(size):
    """Settings of images of so many pixels a side, within tiny's ring."""
    return {"slices__size": size, "slices__pixel_mm": 256 / size, "network__size": size}


def do(folder, config, name, subjects=1):
    """Train a model (and the one that it uses frozen) for an epoch, and reconstruct two slices."""
    ring, model = scanner_from(config["scanner"]), models_of(config)[name]
    slices = {key: config["slices"][key] for key in ("rotations", "per_volume")}
    shape = {"size": config["slices"]["size"], "views": ring.views, "radial": ring.radial_bins}
    shards = [
        make_shard(
            folder / f"{n}.h5",
            subject=f"subject{n:02}",
            seed=n,
            slices=2 if n >= subjects else slices["rotations"] * slices["per_volume"],
            **shape,
        )
        for n in range(subjects + 1)
    ]
    frozen = None
    if used := frozen_of(model.method, model.settings):
        frozen = do(folder, config, used, subjects)
    weights = folder / f"{name}.safetensors"
    train(
        job(config, name),
        shards[:subjects],
        shards[subjects:],
        weights,
        folder / f"{name}-kept",
        folder / f"{name}-run",
        folder / f"{name}.csv",
        frozen,
        threads=1,
    )
    output = folder / f"{name}.h5"
    reconstruct(weights, shards[subjects], output, job(config, name), frozen, threads=1)
    return weights


# --- whatever is accepted ----------------------------------------------------------------------


@st.composite
def changes(draw):
    """Settings that may suit each other or not, of networks small enough to train in a moment."""

    def one(*values):
        return draw(st.sampled_from(values))

    timesteps = one(2, 12, 200, 1000)
    diffusion = {
        "timesteps": timesteps,
        "noise_schedule": one("cosine", "linear") if timesteps > 20 else "cosine",
        "beta_end": min(20 * one(1, 1, 2, 8) / timesteps, 0.9),
        "prediction": one("epsilon", "v_prediction", "sample"),
        "condition_dropout": one(0.0, 0.9),
    }
    sampling = {
        "sampler": one("ddpm", "ddim", "dpm-solver++"),
        "steps": one(1, 2, 2),
        "eta": one(0.0, 1.0),
        "guidance": one(0.0, 3.0),
        "samples": one(1, 2),
        "antithetic": one(False, False, True),
    }
    conditioning = one(["sinogram"], ["sinogram", "fbp"])
    methods = {
        "PnPNet": {"wavelet": one("haar", "db2", "coif1", "bior6.8"), "levels": one(1, 1, 2, 4, 8)},
        "cDPM": diffusion,
        "LegoPET": diffusion,
        "PMDM": {
            **diffusion,
            "posterior_mean": one("PnPNet", "DeepPET"),
            "residual": one(True, False),
        },
        "DeepPET": {"width": one(1, 3), "convolutions": [1] * one(2, 3, 6, 7)},
        "cGAN": {"width": one(1, 3), "blocks": 1, "discriminator_width": one(1, 4)},
        "Pix2Pix": {"width": one(1, 2), "blocks": 1, "discriminator_width": one(1, 3)},
    }
    settings = {
        f"methods__{method}__{key}": value
        for method, own in methods.items()
        for key, value in {
            **own,
            "conditioning": conditioning,
            "batch_size": one(1, 2, 3, 7, 16),
            "epochs": 1,
            "keep_every_epochs": 0,
            "optimiser": one("adam", "adamw"),
            "schedule": one("constant", "cosine"),
            "warmup_steps": one(0, 50),
        }.items()
    }
    network = {
        "patch": one(1, 2, 4, 16),
        "width": one(4, 6),
        "multipliers": one([1], [1, 2], [1, 1, 1], [3, 1], [1] * 4, [1] * 6),
        "blocks": one(1, 2),
        "heads": one(1, 3),
        "head_dim": one(1, 5),
    }
    training = {
        "precision": one("32-true", "bf16-mixed"),
        "gradient_clip": one(0.0, 1.0),
        "ema_decay": one(0.5, 0.9),
        "activation_checkpointing": one(False, True),
        "workers": 0,
        "validate_every_steps": 1000,  # and at the end
        "validation_sampling": sampling,
    }
    return {
        **sized(one(32, 40, 48, 64, 64)),
        **settings,
        **{f"network__{key}": value for key, value in network.items()},
        **{f"training__{key}": value for key, value in training.items()},
        **{f"sampling__{key}": value for key, value in sampling.items()},
        "sampling__weights": one("raw", "ema"),
        "slices__rotations": one(1, 2),
        "slices__per_volume": one(1, 2, 3),
        "variants": {},
        "evaluation__models": ["cDPM"],
        "evaluation__uncertainty": "",
        "evaluation__sweeps__epochs__models": [],
        "evaluation__sweeps__guidance__models": [],
        "evaluation__sweeps__samplers__models": [],
        "evaluation__sweeps__consistency__models": [],
    }


@hypothesis_settings(
    max_examples=30,
    phases=[Phase.reuse, Phase.generate],  # it would take an hour to shrink a failure
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)
@given(
    changes(),
    st.sampled_from(["PnPNet", "cDPM", "LegoPET", "PMDM", "DeepPET", "cGAN", "Pix2Pix"]),
    st.integers(1, 2),
)
def test_what_is_accepted_can_be_trained_and_sampled(drawn, name, subjects):
    with tempfile.TemporaryDirectory() as folder:
        config = tiny(folder, subjects, **drawn)
        try:
            check(config, SCHEMA)
        except InputError:
            assume(False)
        do(Path(folder), config, name, subjects)


# --- wavelets ----------------------------------------------------------------------------------


def decomposes(wavelet, size, levels):
    try:
        ptwt.wavedec2(torch.zeros(1, size, size), wavelet, mode="reflect", level=levels)
    except (RuntimeError, ValueError):
        return False
    return True


@pytest.mark.parametrize("size", [24, 32, 36, 40, 64, 100])
def test_levels_are_those_of_the_transform(size):
    for wavelet in WAVELETS:
        most = most_levels(wavelet, size)
        assert most == 0 or decomposes(wavelet, size, most), (wavelet, most)
        assert not decomposes(wavelet, size, most + 1), (wavelet, most)


BAD_WAVELETS = [
    *("bior1.2", "bior4.9", "bior2.1", "bior6.6", "haar\n", "db2\n", "HAAR", "db39", "sym1"),
    *("coif18", "", "morl", "gaus1", "haar ", "db02", "bior1"),
]


@pytest.mark.parametrize("wavelet", BAD_WAVELETS, ids=repr)
@pytest.mark.parametrize("where", ["methods__PnPNet", "variants__PnPNet-x"])
def test_wavelets_that_do_not_exist_are_refused(folder, where, wavelet):
    values = {f"{where}__wavelet": wavelet}
    if where.startswith("variants"):
        values[f"{where}__method"] = "PnPNet"
    with pytest.raises(InputError, match="is no discrete wavelet of PyWavelets") as caught:
        check(tiny(folder, **values), SCHEMA)
    assert caught.value.where == f"{where}__wavelet".replace("__", ".")
    assert caught.value.problem.startswith(repr(wavelet)[:-1].replace("\n", " "))
    assert "did you mean" in caught.value.remedy


@pytest.mark.parametrize(
    "wavelet", ["haar", "db38", "sym20", "coif17", "bior6.8", "rbio3.1", "dmey"]
)
def test_every_discrete_wavelet_is_accepted(wavelet):
    check(changed(methods__PnPNet__wavelet=wavelet, methods__PnPNet__levels=1), SCHEMA)


@pytest.mark.parametrize(
    ("wavelet", "size", "levels", "most"),
    [
        *(("haar", 32, 6, 5), ("haar", 64, 7, 6), ("haar", 36, 7, 6), ("db2", 64, 7, 6)),
        *(("coif2", 32, 6, 5), ("bior6.8", 64, 7, 6), ("db17", 40, 4, 3)),
    ],
)
def test_more_levels_than_the_image_has_are_refused(folder, wavelet, size, levels, most):
    own = {"method": "PnPNet", "wavelet": wavelet}
    for number in (levels, most):
        config = tiny(folder, **sized(size), variants={"P": {**own, "levels": number}})
        config = merged(config, yaml.safe_load("evaluation: {models: [PnPNet], uncertainty: ''}"))
        for sweep in config["evaluation"]["sweeps"].values():
            sweep["models"] = []
        if number == most:
            check(config, SCHEMA)
            continue
        with pytest.raises(InputError, match=f"{size} has: {most}") as caught:
            check(config, SCHEMA)
        assert caught.value.where == "variants.P.levels"
        assert caught.value.remedy == f"choose at most {most}"
    assert not decomposes(wavelet, size, levels)


def test_wavelets_longer_than_the_image_are_refused():
    small = {**sized(64), "methods__PnPNet__wavelet": "db38", "methods__PnPNet__levels": 1}
    scanner = {"blocks": 8, "crystals_per_block": 8, "radius_mm": 200.0, "pitch_mm": 20.7}
    small |= {f"scanner__{key}": value for key, value in scanner.items()}
    small |= {"scanner__radial_trim": 16, "osem__subsets": 4}
    small["methods__DeepPET__convolutions"] = [1, 1]
    check_refused(small, "methods.PnPNet.levels", "64 x 64 has: 0", "choose a shorter wavelet")


# --- patches -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "patch"), [(32, 16), (48, 16)])
def test_fewer_patches_than_the_first_kernel_reaches_are_refused(folder, size, patch):
    values = {**sized(size), "network__multipliers": [1]}
    check(tiny(folder, **values, network__patch=patch // 2), SCHEMA)
    with pytest.raises(InputError, match="patches of") as caught:
        check(tiny(folder, **values, network__patch=patch), SCHEMA)
    assert caught.value.where == "network.patch"
    assert caught.value.remedy == f"choose at most {size // 4}"


# --- batch norm --------------------------------------------------------------------------------


def encoder(stages, batch_size, size=32, per_volume=4, rotations=2):
    return {
        **sized(size),
        "slices__per_volume": per_volume,
        "slices__rotations": rotations,
        "methods__DeepPET__convolutions": [1] * stages,
        "methods__DeepPET__batch_size": batch_size,
        "methods__DeepPET__epochs": 1,
    }


@pytest.mark.parametrize(
    ("values", "subjects"),
    [
        (encoder(6, 7), 1),  # 8 slices
        (encoder(6, 1), 1),
        (encoder(6, 3), 2),  # 16
        (encoder(7, 2, size=64, per_volume=3, rotations=1), 1),
        (encoder(6, 16, per_volume=1, rotations=1), 1),  # a single one
    ],
)
def test_a_batch_norm_of_one_value_is_refused(folder, values, subjects):
    config = tiny(folder, subjects, **values)
    with pytest.raises(InputError, match="batch norm has nothing to average") as caught:
        check(config, SCHEMA)
    assert caught.value.where == "methods.DeepPET.convolutions"
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        do(folder, config, "DeepPET", subjects)


@pytest.mark.parametrize(
    "values", [encoder(6, 8), encoder(6, 6), encoder(6, 100), encoder(5, 7), encoder(5, 1)]
)
def test_batch_norms_with_several_values_are_accepted(folder, values):
    config = tiny(folder, **values)
    check(config, SCHEMA)
    do(folder, config, "DeepPET")


def test_batch_norms_of_variants_are_looked_at(folder):
    own = {"method": "DeepPET", "convolutions": [1] * 6}
    config = tiny(folder, variants={"D": {**own, "batch_size": 7}})
    config["evaluation"] |= {"models": ["D"], "uncertainty": ""}
    for sweep in config["evaluation"]["sweeps"].values():
        sweep["models"] = []
    with pytest.raises(InputError, match="a single one of 8 training slices") as caught:
        check(config, SCHEMA)
    assert caught.value.where == "variants.D.convolutions"
    config["variants"]["D"]["convolutions"] = [1] * 7
    with pytest.raises(InputError, match="7 stages halve 32 pixels 6 times"):
        check(config, SCHEMA)


@pytest.mark.parametrize("name", ["DeepPET", "cGAN", "Pix2Pix"])
def test_batch_norms_on_several_processors_are_refused(folder, name):
    config = tiny(folder, training__devices=2)
    config["evaluation"]["models"] = [name, "LegoPET"]
    with pytest.raises(InputError, match=f"the batch norms of {name} cannot") as caught:
        check(config, SCHEMA)
    assert caught.value.where == "training.devices"
    config["evaluation"]["models"] = ["LegoPET"]
    check(config, SCHEMA)


# --- numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["seed", "variants__LegoPET-x"])
@pytest.mark.parametrize("seed", [2**63, 2**64, 10**30])
def test_seeds_that_files_cannot_hold_are_refused(path, seed):
    value = seed if path == "seed" else {"method": "LegoPET", "seed": seed}
    error = refusal(**{path: value})
    assert error.where.endswith("seed")
    assert error.problem == f"is {seed}"


def test_configurations_are_checked_without_the_networks(tmp_path):
    """Snakemake begins with the check, which must not take the seconds that torch does."""
    import subprocess
    import sys

    code = (
        "import pipeline.jobs.config, sys; print(*{'torch', 'scipy', 'diffusers'} & {*sys.modules})"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == ""
