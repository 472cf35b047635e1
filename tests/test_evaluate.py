import h5py
import numpy as np
import pandas as pd
import pytest
from test_models_support import make_shard, settings

from models import checkpoints
from models.evaluate import COLUMNS, SUMMARISED, evaluate, summarise
from models.figures import panel, training_curves
from models.reconstruct import opened, reconstruct
from models.training import train
from pipeline.errors import InputError


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Both methods trained for moments, and two test subjects reconstructed by each."""
    folder, config = tmp_path_factory.mktemp("study"), settings()
    shards = [
        make_shard(folder / f"{n}.h5", subject=f"subject{n}", slices=3, seed=n)
        for n in (41, 42, 43)
    ]
    weights: dict = {}
    reconstructions: dict = {}
    for method in ("PnPNet", "LegoPET"):
        features = weights.get(config["methods"][method].get("features"))
        weights[method] = folder / f"{method}.safetensors"
        train(
            method,
            config,
            shards[:1],
            [],
            weights[method],
            folder / method,
            folder / f"{method}.csv",
            features,
            threads=1,
        )
        reconstructions[method] = [folder / f"{method}-{n}.h5" for n in (43, 42)]
        for shard, output in zip(shards[:0:-1], reconstructions[method], strict=True):
            reconstruct(weights[method], shard, output, config, features, threads=1)
    return folder, shards[1:], weights, reconstructions


def scales_of(study):
    return checkpoints.read_metadata(study[2]["PnPNet"]).scales


def test_reconstructions_say_how_they_were_made(study):
    _, shards, weights, reconstructions = study
    for method, (last, _) in reconstructions.items():
        with opened(last) as file, h5py.File(shards[1]) as shard:
            assert file["image"].shape == shard["osem"].shape
            assert np.array_equal(file["slice_index"][()], shard["slice_index"][()])
            assert file.attrs["subject"] == "subject43"
            assert file.attrs["method"] == method
            assert file.attrs["weights_sha256"] == checkpoints.sha256(weights[method])
            assert file.attrs["device"] == "cpu"
            sampled = method == "LegoPET"
            assert (file.attrs["sampler"], file.attrs["steps"]) == (
                ("ddim", 4) if sampled else ("", 1)
            )
            expected = checkpoints.sha256(weights["PnPNet"]) if sampled else ""
            assert file.attrs["features_sha256"] == expected


def test_reconstruction_does_not_depend_on_the_batch_size(study, tmp_path):
    _, shards, weights, reconstructions = study
    config = settings(sampling__batch_size=3)
    for method in weights:
        features = weights["PnPNet"] if method == "LegoPET" else None
        reconstruct(weights[method], shards[1], tmp_path / "r.h5", config, features, threads=1)
        with h5py.File(tmp_path / "r.h5") as one, h5py.File(reconstructions[method][0]) as other:
            scale = one.attrs["activity_scale"]
            assert np.allclose(one["image"][()], other["image"][()], atol=1e-4 * scale)


def test_legopet_refuses_another_pnpnet(study, tmp_path):
    _, shards, weights, _ = study
    method, metadata = checkpoints.load(weights["PnPNet"], settings()["network"])
    method.network.head.bias.data += 1
    checkpoints.save(tmp_path / "p.safetensors", method.network, None, metadata)
    with pytest.raises(InputError, match="is not the file that this LegoPET was trained with"):
        reconstruct(
            weights["LegoPET"],
            shards[0],
            tmp_path / "r.h5",
            settings(),
            tmp_path / "p.safetensors",
            threads=1,
        )
    assert not (tmp_path / "r.h5").exists()


def test_table_has_a_row_for_every_slice_and_method(study, tmp_path):
    _, shards, _, reconstructions = study
    evaluate(shards, reconstructions, scales_of(study), tmp_path / "m.csv")
    table = pd.read_csv(tmp_path / "m.csv")
    assert tuple(table.columns) == COLUMNS
    assert len(table) == 2 * 3 * 4
    assert list(table["method"].unique()) == ["FBP", "OSEM", "PnPNet", "LegoPET"]
    osem = table[table["method"] == "OSEM"]
    assert osem[["psnr_osem_db", "ssim_osem", "nrmse_osem", "checkpoint"]].isna().all(axis=None)
    assert not osem[["psnr_truth_db", "ssim_truth", "contrast_recovery"]].isna().any(axis=None)
    assert not np.isinf(table.select_dtypes("number")).any(axis=None)
    assert set(table.loc[table["method"] == "LegoPET", "sampler"]) == {"ddim"}


def test_numbers_of_the_table(study, tmp_path):
    _, shards, _, reconstructions = study
    scales = scales_of(study)
    evaluate(shards, reconstructions, scales, tmp_path / "m.csv")
    table = pd.read_csv(tmp_path / "m.csv")
    row = table[(table["subject"] == "subject42") & (table["slice_index"] == 11)]
    row = row.set_index("method")
    with h5py.File(shards[0]) as file:
        fbp, osem, labels = (file[name][1] for name in ("fbp", "osem", "labels"))
    mse = np.mean(((fbp - osem) / scales.activity) ** 2)
    assert row.at["FBP", "psnr_osem_db"] == pytest.approx(-10 * np.log10(mse), rel=1e-4)
    assert row.at["OSEM", "gm_mean"] == pytest.approx(osem[labels == 2].mean(), rel=1e-4)
    grey, white = row.at["OSEM", "gm_mean"], row.at["OSEM", "wm_mean"]
    assert row.at["OSEM", "gm_error"] == pytest.approx(grey - 128, abs=1e-3)
    assert row.at["OSEM", "contrast_recovery"] == pytest.approx((grey / white - 1) / 3, rel=1e-3)


def test_a_subject_without_reconstruction_is_named(study, tmp_path):
    _, shards, _, reconstructions = study
    some = {"PnPNet": reconstructions["PnPNet"][:1]}
    with pytest.raises(InputError, match=r"42\.h5: has no reconstruction by PnPNet"):
        evaluate(shards, some, scales_of(study), tmp_path / "m.csv")


def test_other_slices_are_refused(study, tmp_path):
    _, _, _, reconstructions = study
    other = make_shard(tmp_path / "o.h5", subject="subject42", slices=2)
    with pytest.raises(InputError, match="was made of other slices"):
        evaluate([other], reconstructions, scales_of(study), tmp_path / "m.csv")


def test_summary_averages_over_slices(study, tmp_path):
    _, shards, _, reconstructions = study
    evaluate(shards, reconstructions, scales_of(study), tmp_path / "m.csv")
    summarise(tmp_path / "m.csv", tmp_path / "s.csv", tmp_path / "s.md", tmp_path / "s.html")
    table, summary = pd.read_csv(tmp_path / "m.csv"), pd.read_csv(tmp_path / "s.csv", index_col=0)
    assert list(summary.index) == ["FBP", "OSEM", "PnPNet", "LegoPET"]
    assert set(summary["slices"]) == {6}
    expected = table.loc[table["method"] == "FBP", "ssim_osem"]
    assert summary.at["FBP", "ssim_osem_mean"] == pytest.approx(expected.mean(), rel=1e-4)
    assert summary.at["FBP", "ssim_osem_sd"] == pytest.approx(expected.std(), rel=1e-4)
    text = (tmp_path / "s.md").read_text()
    assert "data range of 1" in text
    assert "| OSEM | 6 | - | - | - |" in text
    assert text.count("| ---") == len(SUMMARISED) + 2
    assert "<th>OSEM</th>" in (tmp_path / "s.html").read_text()


def test_figures_are_drawn(study, tmp_path):
    folder, shards, _, reconstructions = study
    panel(shards, reconstructions, scales_of(study), [0.3, 0.7], tmp_path / "panel.png")
    logs = {method: folder / f"{method}.csv" for method in reconstructions}
    training_curves(logs, tmp_path / "curves.png")
    for name in ("panel.png", "curves.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_figure_without_a_reconstruction_of_the_subject(study, tmp_path):
    _, shards, _, reconstructions = study
    some = {"PnPNet": reconstructions["PnPNet"][:1]}
    with pytest.raises(InputError, match="has no reconstruction by PnPNet"):
        panel(shards, some, scales_of(study), [0.5], tmp_path / "panel.png")
