import json
import sys

import pytest

from helpers.workflow import NAMESPACE, ROOT, cannot_be_offline, run
from tools import audit

SAFE = {"name": "a", "version": "1", "vulns": []}
BAD = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["2.1", "3"]}]}
OPEN = {"name": "c", "version": "3", "vulns": [{"id": "CVE-2", "fix_versions": []}]}
UNKNOWN = {"name": "d", "skip_reason": "d was not found"}


@pytest.mark.parametrize(
    ("packages", "code", "lines"),
    [
        ([SAFE], 0, ["0 known vulnerabilities in 1 packages"]),
        (
            [SAFE, BAD, OPEN],
            1,
            [
                "b 2: CVE-1, fixed in 2.1, 3",
                "c 3: CVE-2, fixed in no version yet",
                "2 known vulnerabilities in 3 packages",
            ],
        ),
        (
            [SAFE, UNKNOWN],
            2,
            [
                "0 known vulnerabilities in 1 packages",
                "Not audited: 1 of 2 packages, e.g. d was not found",
            ],
        ),
        ([], 2, ["0 known vulnerabilities in 0 packages", "Not audited: 0 of 0 packages"]),
    ],
)
def test_nothing_but_an_audit_of_every_package_is_clear(packages, code, lines):
    assert audit.judge(json.dumps({"dependencies": packages}), "") == (code, lines)


def test_a_vulnerability_counts_where_others_are_unknown():
    assert audit.judge(json.dumps({"dependencies": [BAD, UNKNOWN]}), "")[0] == 1


def test_a_failure_is_no_pass():
    code, (line,) = audit.judge("", "Traceback ...\nValueError: no hashes")
    assert (code, line) == (2, "Not audited by pip-audit: it failed (ValueError: no hashes)")


def test_without_its_service_it_says_so():
    if reason := cannot_be_offline():
        pytest.skip(reason)
    result = run([*NAMESPACE, sys.executable, "-m", "tools.audit"], ROOT)
    assert result.returncode == 2, result.stdout
    assert "Not audited by pip-audit: its service cannot be reached" in result.stdout
    assert len(result.stdout.splitlines()) == 1
