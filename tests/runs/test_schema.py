"""Every schema that was ever written is read: the files in tests/runs/schema1 load for ever, bit for bit."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from cli_helpers import call, refused, rows
from damage import changed, header_of, sealed

import rnncore
from rnncore import params
from rnncore.runs import metadata
from rnncore.runs.checkpoint import KEY, ModelFileError, read

STORED = Path(__file__).parent / "schema1"
PARAMETERS = (
    "a6a087b4c396bb3d88f764ce9173e6e0f5537f4eeec8fc16403994d390a87f96"  # sha256 of the flat buffer of either file
)
MOMENTS = {
    "optimizer.m": "6f08b200f3f1690d",
    "optimizer.v": "c36ee5d332519dce",
    "state.c": "a5b9e52151dc4a7c",
    "state.h": "357e82f73fff1fa8",
}


def sha256(array) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


@pytest.mark.parametrize("name", ["best", "last"])
def test_a_file_of_schema_1_loads_bit_for_bit(name):
    path = STORED / f"{name}.safetensors"
    document, _ = read(path)
    assert header_of(path.read_bytes())[0]["__metadata__"][KEY].startswith('{"schema": 1, "config"')
    model = rnncore.load(path, "cpu")
    assert sha256(model.params.flat) == PARAMETERS and params.count(model.config) == model.params.flat.size == 347
    assert (
        model.config == rnncore.ModelConfig(13, 2, 4, 2)
        and model.vocab.symbols == "\n .abdeflorsä"
        and model.dtype == "float32"
    )
    assert document["card"]["step"] == 4 and document["card"]["corpus"]["characters"] == 1200


def test_a_run_of_schema_1_goes_on(tmp_path, capsys, monkeypatch):
    tensors = read(STORED / "last.safetensors")[1]
    assert {name: sha256(tensors[name])[:16] for name in MOMENTS} == MOMENTS
    monkeypatch.chdir(tmp_path)
    shutil.copy(STORED / "corpus.txt", tmp_path)
    shutil.copytree(STORED, tmp_path / "run", ignore=shutil.ignore_patterns("corpus.txt"))
    result = call(capsys, "train", "--resume", "-o", "run", "--steps", 6)
    assert (
        result.code == 0 and "going on with run after step 4" in result.err and rows(tmp_path / "run")[-1]["step"] == 6
    )
    assert call(capsys, "info", "run", "--verify").code == 0


def test_every_schema_up_to_this_one_is_read():
    assert list(metadata.READS) == list(range(1, metadata.SCHEMA + 1))
    assert all((Path(__file__).parent / f"schema{schema}").is_dir() for schema in metadata.READS)


def test_an_older_schema_is_brought_up_to_date_after_its_digest(tmp_path, monkeypatch):
    """As it will be: the digest is of what is stored, all else sees today's document."""

    def renamed(document: dict) -> dict:
        return {name: value for name, value in document.items() if name != "symbols"} | {
            "vocab": document["symbols"],
            "schema": 1,
        }

    monkeypatch.setitem(metadata.READS, 0, renamed)
    document, tensors = read(STORED / "best.safetensors")
    old = {name: value for name, value in document.items() if name != "vocab"} | {
        "symbols": document["vocab"],
        "schema": 0,
    }
    (tmp_path / "m").write_bytes(sealed(old, tensors))
    assert sha256(rnncore.load(tmp_path / "m", "cpu").params.flat) == PARAMETERS and read(tmp_path / "m")[0] == document
    (tmp_path / "m").write_bytes(sealed(changed(old, ("symbols", 0), 9), tensors)[:-1] + b"\1")
    with pytest.raises(ModelFileError, match="sha256"):
        read(tmp_path / "m")


@pytest.mark.parametrize("schema", [0, 2, 10**6, -1, "1", 1.0, True, None])
def test_a_newer_schema_is_refused_by_name(tmp_path, capsys, schema):
    document, tensors = read(STORED / "best.safetensors")
    (tmp_path / "m").write_bytes(sealed(document | {"schema": schema}, tensors))
    line = refused(call(capsys, "generate", tmp_path / "m"))
    assert f"schema {schema!r}" in line and "reads (1)" in line and "install the version" in line


def test_what_is_written_is_of_this_schema(tmp_path):
    rnncore.save(rnncore.load(STORED, "cpu"), tmp_path / "m")
    text = json.loads(header_of((tmp_path / "m").read_bytes())[0]["__metadata__"][KEY])
    assert text["schema"] == metadata.SCHEMA and list(text) == ["schema", "config", "vocab", "card", "sha256"]
