"""Go's text/template as Ollama uses it: `parse` builds a tree from a text, `render` writes a text from the tree.
It does no I/O and bounds its work; unsupported syntax raises `TemplateError`. It may import `mapping` and below.
`settings` imports it to check profiles, `generation` and `operations` to render prompts (`prompt`).
"""

from .functions import BUILTINS, ollama_functions
from .nodes import TemplateError, Tree
from .parser import parse
from .renderer import render
from .values import Map, Slice, Struct, Value

__all__ = [
    "BUILTINS",
    "Map",
    "Slice",
    "Struct",
    "TemplateError",
    "Tree",
    "Value",
    "ollama_functions",
    "parse",
    "render",
]
