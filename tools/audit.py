"""Known vulnerabilities of the locked packages: ``make audit``.

pip-audit itself ends well when its service knows none of the packages, and with a traceback when
there is no service; neither must look like a lock without vulnerabilities.
"""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

LOCK = Path(__file__).resolve().parent.parent / "requirements.lock"

AUDIT = [sys.executable, "-m", "pip_audit", "--require-hashes", "--disable-pip"]
AUDIT += ["--format", "json", "--progress-spinner", "off", "--requirement", str(LOCK)]

CLEAR, VULNERABLE, UNKNOWN = 0, 1, 2
"""Exit codes."""


def judge(found: str, errors: str) -> tuple[int, Sequence[str]]:
    """Say what pip-audit's output means.

    Parameters
    ----------
    found, errors : str
        Its standard output, JSON if it got that far, and its standard error.

    Returns
    -------
    code, lines
        Exit code, and what to print.
    """
    try:
        packages = json.loads(found)["dependencies"]
    except ValueError:
        cut_off = re.search("ConnectionError|Timeout", errors)
        problem = "its service cannot be reached" if cut_off else "it failed"
        reason = (errors.strip().splitlines() or ["no reason given"])[-1]
        return UNKNOWN, [f"Not audited by pip-audit: {problem} ({reason})"]
    unknown = [package for package in packages if "vulns" not in package]
    lines = [
        f"{package['name']} {package['version']}: {vulnerability['id']}, "
        f"fixed in {', '.join(vulnerability['fix_versions']) or 'no version yet'}"
        for package in packages
        for vulnerability in package.get("vulns", [])
    ]
    code = VULNERABLE if lines else UNKNOWN if unknown or not packages else CLEAR
    lines.append(f"{len(lines)} known vulnerabilities in {len(packages) - len(unknown)} packages")
    if unknown or not packages:
        reason = f", e.g. {unknown[0]['skip_reason']}" if unknown else ""
        lines.append(f"Not audited: {len(unknown)} of {len(packages)} packages{reason}")
    return code, lines


def main() -> int:
    """Audit the lock and print what was found."""
    result = subprocess.run(AUDIT, capture_output=True, encoding="utf-8", check=False)
    code, lines = judge(result.stdout, result.stderr)
    print("\n".join(lines))
    return code


if __name__ == "__main__":
    sys.exit(main())
