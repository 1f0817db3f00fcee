"""Writes a GGUF model as OpenVINO's files with int8 weights, one scale per output channel.
Runs in OpenVINO's environment: openvino_compress.py GGUF FOLDER"""

import shutil
import sys
import tempfile
from pathlib import Path

import nncf
import openvino
import openvino_genai


def main() -> None:
    source, folder = Path(sys.argv[1]), Path(sys.argv[2])
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        # It saves its files beside the model it loads.
        link = Path(scratch) / source.name
        link.symlink_to(source.resolve())
        openvino_genai.LLMPipeline(link, "CPU", enable_save_ov_model=True)
        model = openvino.Core().read_model(Path(scratch) / "openvino_model.xml")
        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
        done = Path(scratch) / "done"
        done.mkdir()
        for file in Path(scratch).glob("openvino_*tokenizer.*"):
            shutil.copy(file, done)
        openvino.save_model(model, done / "openvino_model.xml")
        shutil.rmtree(folder, ignore_errors=True)
        done.rename(folder)


if __name__ == "__main__":
    main()
