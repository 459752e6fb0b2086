"""Runs test files on the simulated GPU: ``run.py FILE...``, in a process of its own because it changes torch."""

import sys

import kit
import pytest
import torch


class Inference:
    """Tests run in inference mode, as core's executor runs nodes."""

    @pytest.fixture(autouse=True)
    def inference(self):
        with torch.inference_mode():
            yield
            kit.unload()


if __name__ == "__main__":
    options = ["--noconftest", "-q", "-p", "no:cacheprovider", "--durations=8", "-o", "addopts="]
    sys.exit(pytest.main([*options, *sys.argv[1:]], plugins=[Inference()]))
