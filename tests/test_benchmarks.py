from benchmarks.stages import stages


def test_stages_summarises_a_rules_jobs(tmp_path):
    folder = tmp_path / "osem"
    folder.mkdir()
    header = "s\th:m:s\tmax_rss\tcpu_time"
    (folder / "subject04.tsv").write_text(f"{header}\n2.0\t0:00:02\t100.0\t1.5\n")
    (folder / "subject05.tsv").write_text(f"{header}\n4.0\t0:00:04\tNA\t2.5\n")
    (row,) = stages(tmp_path).to_dict("records")
    assert row == {
        "rule": "osem",
        "jobs": 2,
        "mean_s": 3.0,
        "longest_s": 4.0,
        "sum_s": 6.0,
        "cpu_s": 4.0,
        "peak_mb": 100.0,
    }
