"""Where the arithmetic runs."""

import pytest
from accelerate.utils import parse_flag_from_env

from unimatrix.train.launch import device_kind


@pytest.mark.parametrize(
    "flag", ["1", "true", "True", "t", "yes", "Y", "on", "0", "false", "no", "off", None]
)
def test_auto_is_the_cpu_where_accelerate_is_told_so(monkeypatch, flag):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    if flag is not None:
        monkeypatch.setenv("ACCELERATE_USE_CPU", flag)
    assert device_kind("auto") == ("cpu" if parse_flag_from_env("ACCELERATE_USE_CPU") else "cuda")
    assert device_kind("cuda") == "cuda"
