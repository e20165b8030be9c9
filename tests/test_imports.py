"""The core needs torch and numpy alone, and importing it costs what they cost."""

import json
import subprocess
import sys

import pytest

PROBE = """
import json, sys
import numpy, torch
before = set(sys.modules)
import {module}
new = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(json.dumps(sorted(new - set(sys.stdlib_module_names))))
"""


@pytest.mark.parametrize("module", ["unimatrix", "unimatrix.ops", "unimatrix.mixers", "unimatrix.models"])
def test_core_imports_nothing_but_torch(module):
    out = subprocess.run(
        [sys.executable, "-c", PROBE.format(module=module)], capture_output=True, text=True, check=True
    )
    # numpy.random, imported on demand, registers what Cython gave it
    extra = {name for name in json.loads(out.stdout) if "cython" not in name} - {"unimatrix"}
    # torch.library and torch.compile's flags pull in parts of torch and what it itself depends on
    assert extra <= {
        "torch",
        "numpy",
        "sympy",
        "mpmath",
        "networkx",
        "typing_extensions",
        "jinja2",
        "markupsafe",
    }


def test_command_line_help_does_not_wait_for_torch():
    code = "import sys, unimatrix.cli; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
