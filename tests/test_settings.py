import pytest

from omniavatar import InputError
from omniavatar.serving.settings import WorkerSettings, settings_table, variable_of


def test_variables_are_read_and_empty_ones_are_not_set(tmp_path):
    settings = WorkerSettings.from_environment(
        {
            "OMNIAVATAR_MODEL": "14B",
            "OMNIAVATAR_WEIGHTS": str(tmp_path),
            "OMNIAVATAR_DEVICE": "",
            "OMNIAVATAR_MEMORY": "24GB",
            "OMNIAVATAR_LORAS": "fast.safetensors:0.8",
            "OMNIAVATAR_MAX_TOKENS": "15000",
            "OMNIAVATAR_MAX_RESULT_MB": "2.5",
            "OMNIAVATAR_PRIVATE_ADDRESSES": "1",
            "PATH": "/bin",
        }
    )
    assert settings == WorkerSettings(
        model="14B",
        weights=tmp_path,
        memory="24GB",
        loras="fast.safetensors:0.8",
        max_tokens=15000,
        max_result_megabytes=2.5,
        private_addresses=True,
    )
    assert not settings.has_bucket
    assert [(str(lora.path), lora.strength) for lora in settings.lora_choices] == [
        ("fast.safetensors", 0.8)
    ]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OMNIAVATAR_MAX_TOKENS", "1.5"),
        ("OMNIAVATAR_MAX_TOKENS", "-3"),
        ("OMNIAVATAR_MAX_FILE_MB", "nan"),
        ("OMNIAVATAR_MAX_STEPS", "0"),
        ("OMNIAVATAR_PRIVATE_ADDRESSES", "maybe"),
        ("OMNIAVATAR_MEMORY", "plenty"),
    ],
)
def test_unusable_value_names_its_variable(variable, value):
    with pytest.raises(InputError, match=variable) as error:
        WorkerSettings.from_environment({variable: value})
    assert error.value.field == variable


def test_secret_is_not_shown():
    assert "hush" not in repr(WorkerSettings(bucket_secret="hush", **_rest_of_the_bucket()))


def test_table_has_every_variable():
    table = settings_table()
    for name in WorkerSettings.__dataclass_fields__:
        assert f"`{variable_of(name)}`" in table


def _rest_of_the_bucket():
    return {"bucket_endpoint": "http://s3", "bucket_name": "videos", "bucket_key": "key"}
