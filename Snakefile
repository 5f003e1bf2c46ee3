"""The reproduction as a graph of files: every notebook becomes an executed notebook in runs/.

Expensive work (world, detector outputs, training) is done by functions of humr that look into
runs/ first, so a notebook that runs again is cheap, and an interrupted one goes on.
"""

import sys
from pathlib import Path

from humr.launch import environment, execution

PROFILE = environment.lowered(config.get("profile", "laptop"))
NAMES = sorted(path.stem for path in Path("notebooks").glob("[0-9][0-9]_*.ipynb"))


def source(wildcards):
    return Path("notebooks") / f"{wildcards.name}.ipynb"


rule all:
    input:
        expand(f"runs/{PROFILE}/notebooks/{{name}}.ipynb", name=NAMES),


rule notebook:
    # ancient() and the hash of the code cells: fresh outputs or texts in a notebook do not make
    # it run again, a changed line of its code or of a module that it imports does.
    input:
        ancient("notebooks/{name}.ipynb"),
        modules=lambda wildcards: execution.modules(source(wildcards)),
    output:
        f"runs/{PROFILE}/notebooks/{{name}}.ipynb",
    params:
        code=lambda wildcards: execution.code_hash(source(wildcards)),
        number=lambda wildcards: wildcards.name[:2],
    wildcard_constraints:
        name=r"\d\d_\w+",
    # 00 is the first result. Only the heavy ones (07 and later) have the machine to themselves: the
    # scheduler prefers two small jobs to one that needs all cores, whatever their priority.
    priority: lambda wildcards: 100 - int(wildcards.name[:2])
    threads: lambda wildcards: 1 if int(wildcards.name[:2]) < 7 else workflow.cores
    benchmark:
        f"runs/{PROFILE}/benchmarks/{{name}}.tsv"
    shell:
        "HUMR_THREADS={threads} {sys.executable} -m humr.launch.execution run {params.number}"
        " --profile " + PROFILE + " --output {output:q}"
