"""What jobs ask of a cluster; tests/slurm runs them on one."""

import re

from helpers.workflow import snakemake, workplace

PROFILE = ("--workflow-profile", "profiles/slurm")


def test_the_profile_asks_for_what_each_rule_needs(tmp_path):
    folder = workplace(tmp_path / "x")
    result = snakemake(folder, "--dry-run", *PROFILE, tiny=False)
    assert result.returncode == 0, result.stdout[-3000:]
    blocks = re.findall(r"^rule (\w+):\n(?: {4}.+\n)*? {4}resources: (.+)", result.stdout, re.M)
    found = {rule: dict(re.findall(r"(\w+)=([^,]+)", text)) for rule, text in blocks}
    asked = {
        rule: [found[rule].get(name) for name in ("runtime", "gpu")]
        for rule in ("osem", "train", "reconstruct", "sweep")
    }
    assert asked == {
        "osem": ["30", None],
        "train": ["1440", "1"],
        "reconstruct": ["480", "1"],
        "sweep": ["480", "1"],
    }
    assert found["train"]["slurm_extra"] == "--signal=TERM@120"
    del found["all"]
    assert all({"mem_mb", "runtime"} <= each.keys() for each in found.values())


def test_without_any_number_of_cores_the_remedy_is_named(tmp_path):
    profile = tmp_path / "profile"
    profile.mkdir()
    (profile / "config.yaml").write_text("executor: slurm\njobs: 1\n")
    folder = workplace(tmp_path / "x")
    result = snakemake(folder, "--workflow-profile", str(profile), tiny=False)
    assert result.returncode != 0
    assert "training.threads: is 0" in result.stdout
    assert "--max-threads" in result.stdout
