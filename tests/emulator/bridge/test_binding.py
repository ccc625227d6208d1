"""How the emulator binds the body of a create."""

import json
from typing import Any

import pytest

from crynux_async.emulator.bridge.binding import FIELDS, Bound, bind
from crynux_async.emulator.http.binding import BindError
from crynux_async.emulator.nodes.task_args import task_args, unsupported, with_defaults

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
BOUNDARY = "XyZ"
MULTIPART = f"multipart/form-data; boundary={BOUNDARY}"


def bind_json(**fields: Any) -> dict[str, Any]:
    return bind(json.dumps({"model_name": "m", **fields}).encode(), JSON, authorization="Bearer k").values


def error_of(body: str | bytes, content_type: str = JSON, **options: Any) -> tuple[str, str]:
    """Return field and message of the BindError."""
    options.setdefault("authorization", "Bearer k")
    with pytest.raises(BindError) as caught:
        bind(body.encode() if isinstance(body, str) else body, content_type, **options)
    return caught.value.field, str(caught.value)


def multipart(fields: dict[str, str], files: list[str] | None = None) -> bytes:
    parts = [f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}' for name, value in fields.items()]
    parts += [
        f'Content-Disposition: form-data; name="{name}"; filename="c.zip"\r\nContent-Type: application/zip\r\n\r\nPK'
        for name in files or []
    ]
    return "".join(f"--{BOUNDARY}\r\n{part}\r\n" for part in parts).encode() + f"--{BOUNDARY}--\r\n".encode()


def bind_multipart(fields: dict[str, str], files: list[str] | None = None) -> Bound:
    return bind(multipart({"model_name": "m", **fields}, files), MULTIPART, authorization="Bearer k")


def test_absent_fields_have_gos_zero_values() -> None:
    values = bind_json()
    assert (values["rank"], values["center_crop"], values["model_revision"], values["learning_rate"]) == (
        0,
        False,
        "",
        0.0,
    )
    assert (
        values["num_train_steps"] is values["dataset_url"] is values["init_lora_weights"] is values["timeout"] is None
    )


def test_every_field_of_the_wire_binds_once() -> None:
    assert len({field.name for field in FIELDS}) == len(FIELDS) == 38


@pytest.mark.parametrize("key", ["MODEL_NAME", "Model_Name", "mOdEl_NaMe"])
def test_key_in_other_letter_case_binds(key: str) -> None:
    assert bind(json.dumps({key: "x"}).encode(), JSON, authorization="Bearer k").values["model_name"] == "x"


def test_key_with_a_letter_that_folds_to_ascii_binds() -> None:
    values = bind('{"model_name":"m","ran\u212a":3}'.encode(), JSON, authorization="Bearer k").values
    assert values["rank"] == 3


def test_last_duplicate_wins() -> None:
    body = b'{"model_name":"a","rank":1,"RANK":2,"rank":3,"model_name":"b"}'
    values = bind(body, JSON, authorization="Bearer k").values
    assert (values["model_name"], values["rank"]) == ("b", 3)


def test_null_leaves_a_plain_field_and_clears_a_pointer() -> None:
    body = b'{"model_name":"a","model_name":null,"num_train_steps":5,"num_train_steps":null}'
    values = bind(body, JSON, authorization="Bearer k").values
    assert (values["model_name"], values["num_train_steps"]) == ("a", None)


@pytest.mark.parametrize(
    ("literal", "found"),
    [("8.0", "number 8.0"), ("1e2", "number 1e2"), ("4.50", "number 4.50"), ('"8"', "string"), ("true", "bool"),
     ("[]", "array"), ("{}", "object"), (str(2**63), f"number {2**63}")],
)  # fmt: skip
def test_wrong_type_for_an_int_is_named_with_its_literal(literal: str, found: str) -> None:
    message = f"json: cannot unmarshal {found} into Go struct field SDFinetuneLoraRequest.rank of type int"
    assert error_of(f'{{"model_name":"m","rank":{literal}}}') == ("rank", message)


@pytest.mark.parametrize(
    ("field", "literal", "found", "kind"),
    [("timeout", "-1", "number -1", "uint64"), ("timeout", "1.5", "number 1.5", "uint64"),
     ("learning_rate", "1e999", "number 1e999", "float64"), ("learning_rate", "true", "bool", "float64"),
     ("center_crop", "1", "number", "bool"), ("model_variant", "5", "number", "string"),
     ("num_train_steps", '"5"', "string", "int"), ("snr_gamma", "[1]", "array", "float64"),
     ("init_lora_weights", "1e999", "number 1e999", "float64")],
)  # fmt: skip
def test_wrong_type_names_field_and_go_type(field: str, literal: str, found: str, kind: str) -> None:
    message = f"json: cannot unmarshal {found} into Go struct field SDFinetuneLoraRequest.{field} of type {kind}"
    assert error_of(f'{{"model_name":"m","{field}":{literal}}}') == (field, message)


def test_first_of_two_wrong_types_is_reported_before_what_is_missing() -> None:
    field, _ = error_of('{"rank":"a","batch_size":"b"}')
    assert field == "rank"


def test_integer_for_a_float_field_is_fine() -> None:
    assert bind_json(learning_rate=1)["learning_rate"] == 1.0


@pytest.mark.parametrize(("body", "kind"), [("[]", "array"), ('"x"', "string"), ("1", "number"), ("true", "bool")])
def test_document_that_is_no_object_is_named_by_its_kind(body: str, kind: str) -> None:
    assert error_of(body) == ("", f"json: cannot unmarshal {kind} into Go value of type image.SDFinetuneLoraRequest")


@pytest.mark.parametrize("body", ["", "null", "{}", '{"model_name":""}'])
def test_missing_model_name_is_reported_before_the_missing_header(body: str) -> None:
    assert error_of(body, authorization="") == ("model_name", "model_name is required")


def test_missing_header_is_reported() -> None:
    assert error_of('{"model_name":"m"}', authorization="") == ("Authorization", "Authorization is required")


def test_authorization_in_the_body_stands_in_for_the_header() -> None:
    bound = bind(b'{"model_name":"m","authorization":"Bearer body"}', JSON)
    assert bound.values["Authorization"] == "Bearer body"


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/octet-stream", "Application/JSON"])
def test_json_under_another_content_type_is_not_read(content_type: str) -> None:
    assert error_of('{"model_name":"m"}', content_type) == ("model_name", "model_name is required")


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8", "application/json;x"])
def test_json_content_type_may_have_parameters(content_type: str) -> None:
    assert bind(b'{"model_name":"m"}', content_type, authorization="Bearer k").values["model_name"] == "m"


@pytest.mark.parametrize("content_type", [JSON, FORM, MULTIPART, "text/plain"])
def test_body_beyond_the_limit_is_too_large(content_type: str) -> None:
    assert error_of('{"model_name":"mmm', content_type, too_large=True) == ("", "http: request body too large")


def test_json_that_is_complete_before_the_limit_binds() -> None:
    assert bind(b'{"model_name":"m"}   ', JSON, authorization="k", too_large=True).values["model_name"] == "m"


def test_urlencoded_form_binds_and_takes_the_query_too() -> None:
    bound = bind(b"model_name=a+b&rank=4&center_crop=t", FORM, query="rank=9&seed=3", authorization="k")
    values = bound.values
    assert (values["model_name"], values["rank"], values["center_crop"], values["seed"]) == ("a b", 4, True, 3)


def test_multipart_binds_text_fields_by_name() -> None:
    values = bind_multipart(
        {"rank": "4", "learning_rate": "1e-4", "random_flip": "true", "num_train_steps": "7", "dataset_url": ""}
    ).values
    assert (values["rank"], values["learning_rate"], values["random_flip"], values["num_train_steps"]) == (
        4,
        1e-4,
        True,
        7,
    )
    assert values["dataset_url"] == ""


def test_multipart_empty_text_is_zero() -> None:
    values = bind_multipart({"rank": "", "learning_rate": "", "random_flip": "", "num_train_steps": ""}).values
    assert (values["rank"], values["learning_rate"], values["random_flip"], values["num_train_steps"]) == (
        0,
        0.0,
        False,
        0,
    )


def test_multipart_timeout_is_bound_under_its_go_name_only() -> None:
    assert bind_multipart({"timeout": "60"}).values["timeout"] is None
    assert bind_multipart({"Timeout": "60"}).values["timeout"] == 60


@pytest.mark.parametrize("name", ["init_lora_weights", "target_modules"])
def test_multipart_field_of_any_type_is_an_unknown_type(name: str) -> None:
    assert error_of(multipart({"model_name": "m", name: "gaussian"}), MULTIPART) == ("", "unknown type")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("rank", "x", 'strconv.ParseInt: parsing "x": invalid syntax'),
     ("Timeout", "-1", 'strconv.ParseUint: parsing "-1": invalid syntax'),
     ("center_crop", "yes", 'strconv.ParseBool: parsing "yes": invalid syntax'),
     ("learning_rate", "1,5", 'strconv.ParseFloat: parsing "1,5": invalid syntax')],
)  # fmt: skip
def test_multipart_wrong_type_is_strconvs_complaint_without_field(name: str, value: str, message: str) -> None:
    assert error_of(multipart({"model_name": "m", name: value}), MULTIPART) == ("", message)


def test_multipart_files_are_counted() -> None:
    assert bind_multipart({}, ["checkpoint", "checkpoint"]).checkpoints == 2


def test_multipart_without_boundary_says_so() -> None:
    field, message = error_of(multipart({"model_name": "m"}), "multipart/form-data")
    assert (field, message) == ("", "no multipart boundary param in Content-Type")


def test_multipart_that_is_cut_off_says_so() -> None:
    assert error_of(multipart({"model_name": "m"})[:-6], MULTIPART) == ("", "multipart: NextPart: EOF")


def test_defaults_replace_what_is_zero_or_negative() -> None:
    filled = with_defaults(bind_json(rank=-1, lr_warmup_steps=0, adam_weight_decay=0, batch_size=0, seed=0), seed=77)
    assert (filled["rank"], filled["lr_warmup_steps"], filled["adam_weight_decay"], filled["batch_size"]) == (
        8,
        500,
        0.01,
        16,
    )
    assert (filled["seed"], filled["init_lora_weights"], filled["scale_lr"], filled["model_revision"]) == (
        77,
        True,
        False,
        "main",
    )


def test_defaults_keep_what_is_given() -> None:
    filled = with_defaults(bind_json(rank=4, init_lora_weights=False, noise_offset=-1, snr_gamma=0, seed=5), seed=77)
    assert (filled["rank"], filled["init_lora_weights"], filled["noise_offset"], filled["snr_gamma"]) == (
        4,
        False,
        -1.0,
        0.0,
    )
    assert filled["seed"] == 5


def test_absent_timeout_is_the_servers_two_hours() -> None:
    assert task_args(with_defaults(bind_json(), seed=1)).timeout == 7200


@pytest.mark.parametrize(("text", "shown"), [("nan", "NaN"), ("inf", "+Inf"), ("-inf", "-Inf")])
def test_number_that_json_cannot_express_is_unsupported(text: str, shown: str) -> None:
    filled = with_defaults(bind_multipart({"noise_offset": text}).values, seed=1)
    assert unsupported(filled) == f"json: unsupported value: {shown}"


def test_finite_numbers_are_supported() -> None:
    assert unsupported(with_defaults(bind_json(), seed=1)) is None
