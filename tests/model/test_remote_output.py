"""A trained model that is put into a store: there whole or not at all, and never another's."""

from pathlib import Path

import pytest

from elasticdl.data.filesystems import file_system
from elasticdl.errors import UsageError
from elasticdl.model.remote_output import WRITING_FILE, check_can_put
from elasticdl.model.source import DEFINITION_FILE, ModelSource, read_definition
from elasticdl.model.trained_model import check_output, copy_trained_model
from elasticdl.proto.trained_model_pb2 import TrainedModel


def model(directory: Path, job_name: str, *files: str) -> str:
    for name in ("model_zoo/a.py", *files):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(job_name)
    definition = TrainedModel(model_def="a.A", job_name=job_name)
    (directory / DEFINITION_FILE).write_bytes(definition.SerializeToString())
    return str(directory)


def test_a_model_replaces_another_whole(store, tmp_path):
    output = f"{store.root}/model"
    files, _ = file_system(output)
    copy_trained_model(model(tmp_path / "one", "one", "old.txt"), output, job_name="one")
    with pytest.raises(UsageError, match="holds a trained model already; give another directory"):
        check_output(output, overwrite=False, job_name="two")
    check_output(output, overwrite=False, job_name="one")
    copy_trained_model(model(tmp_path / "two", "two", "new.txt"), output, True, "two")
    assert [one.path.removeprefix(f"{output}/") for one in files.files(output)] == [
        "model_zoo/a.py",
        "new.txt",
        DEFINITION_FILE,
    ]
    assert read_definition(output).job_name == "two"
    source = ModelSource.of_trained_model(output)
    assert Path(source.model_zoo, "a.py").read_text() == "two"
    copy_trained_model(output, str(tmp_path / "back"))
    assert (tmp_path / "back" / "new.txt").read_text() == "two"


def test_half_a_model_is_none_and_its_job_alone_begins_again(store, tmp_path, monkeypatch):
    output = f"{store.root}/model"
    files, _ = file_system(output)
    copy_trained_model(model(tmp_path / "one", "one"), output, job_name="one")
    put = type(files).put_file

    def fail_at_the_end(self, path, file):
        if path.endswith(DEFINITION_FILE):
            raise ConnectionError(103, "no answer", path)
        put(self, path, file)

    two = model(tmp_path / "two", "two")
    with monkeypatch.context() as patch:
        patch.setattr(type(files), "put_file", fail_at_the_end)
        with pytest.raises(UsageError, match=f"^output '{output}': no answer"):
            copy_trained_model(two, output, True, "two")
    with pytest.raises(UsageError, match=r"has no trained_model.pb"):
        read_definition(output)
    with pytest.raises(UsageError, match="holds part of a trained model, of job 'two'; give"):
        check_output(output, overwrite=False, job_name="three")
    copy_trained_model(two, output, job_name="two")
    assert read_definition(output).job_name == "two"
    assert files.info(f"{output}/{WRITING_FILE}") is None


def test_what_must_not_be_replaced_is_named(store):
    files, root = file_system(store.root)
    files.put(f"{root}/full/a.txt", b"a")
    files.put(f"{root}/object", b"a")
    for path, why in {
        f"{root}/full": "holds other files; give a new or empty directory",
        f"{root}/object": "is an object; give a directory",
        f"{store.scheme}://no-such-bucket/a": "there is no bucket 'no-such-bucket' at http",
    }.items():
        with pytest.raises(UsageError, match=f"^output '{path}': {why}"):
            check_output(path, overwrite=True)
    check_output(f"{root}/new", overwrite=False)
    before = files.files(root)
    check_can_put("output", f"{root}/new")
    assert files.files(root) == before
    with pytest.raises(UsageError, match=r"^output '.*': cannot be written: there is no bucket"):
        check_can_put("output", f"{store.scheme}://no-such-bucket/a")
