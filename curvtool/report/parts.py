"""The parts of a report that are of a kind of analysis: read, written and described by the registry's records."""

from __future__ import annotations

from typing import Annotated, Any, Union

from pydantic import (
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    InstanceOf,
    SerializeAsAny,
    TypeAdapter,
    ValidationError,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from curvtool import registry
from curvtool.report.record import AnalysisRecord


def _read(value: Any) -> Any:
    """A dictionary as the record of its kind."""
    if not isinstance(value, dict):
        return value
    kind = value.get("kind")
    if kind not in registry.kinds():
        raise PydanticCustomError("kind", "no such kind of analysis: {kind}", {"kind": repr(kind)[:100]})
    try:
        return registry.record_of(kind).model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise PydanticCustomError("analysis", "{where}: {told}", {"where": where, "told": first["msg"]}) from error


class _OfEveryKind:
    """Describes the union of all kinds for the JSON Schema."""

    @staticmethod
    def __get_pydantic_json_schema__(core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        records = tuple(registry.record_of(kind) for kind in registry.kinds())
        union: Any = Annotated[Union[records], Field(discriminator="kind")]  # noqa: UP007
        return handler(TypeAdapter(union).core_schema)


Analysis = Annotated[SerializeAsAny[InstanceOf[AnalysisRecord]], BeforeValidator(_read), _OfEveryKind]
