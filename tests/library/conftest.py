import pytest

from library import saved


@pytest.fixture
def adapter_folder(tmp_path):
    """One sound adapter of the tiny Llama, written by PEFT."""
    folder = tmp_path / "library" / "poems"
    saved.save(folder)
    return folder


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent.name == "library":
            for warning in saved.PEFT_WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(warning))
