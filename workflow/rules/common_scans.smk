def scan_files(scan):
    """Files that a scan names, and those behind headers."""
    named = files_of_scan(SCANS[scan]).values()
    return sorted({str(file) for path in named for file in files_of(path)})


def scan_readers(scan):
    """Readers of a scan's files, as entries of their registry."""
    found = {reader_of(path) for path in files_of_scan(SCANS[scan]).values()}
    return sorted(found - {None})


def scan_images(wildcards):
    """Images of a scan."""
    kinds = SCANS[wildcards.scan].get("images", ["osem", "fbp"])
    return expand(f"{RESULTS}/scans/{wildcards.scan}/{{kind}}.h5", kind=kinds)


def scan_osem_input_of(wildcards):
    """OSEM image of a scan, for a network that sees it."""
    if "osem_input" in MODELS[wildcards.model].settings["conditioning"]:
        return f"{RESULTS}/scans/{wildcards.scan}/osem_input.h5"
    return []


def scan_reports(wildcards):
    """Reports of all scans, of which there must be some."""
    if not SCANS:
        raise WorkflowError(
            "scans: is empty: the configuration has no scans\n"
            "  -> give a section of each, as README says, in a file: --configfile FILE"
        )
    return expand(f"{RESULTS}/scans/{{scan}}/report.png", scan=SCANS)
