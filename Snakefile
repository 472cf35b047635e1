from snakemake.utils import min_version

min_version("9.27")  # 9.15 starts more jobs than there are cores


configfile: "config/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/common_sampling.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/classical.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/sweeps.smk"
include: "workflow/rules/tour.smk"
include: "workflow/rules/lesions.smk"
include: "workflow/rules/common_scans.smk"
include: "workflow/rules/scans.smk"


rule all:
    default_target: True
    input:
        final_outputs(),
