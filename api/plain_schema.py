"""How pydantic writes schemas for the OpenAPI document: without titles that say a field's name again."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema


class Plain(GenerateJsonSchema):
    """Pydantic's own, but for fields' titles."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """No."""
        return False
