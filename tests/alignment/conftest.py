import pytest


@pytest.fixture(scope="module")
def data(make_preference_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    make_preference_dataset(24).save_to_disk(str(folder))
    return str(folder)
