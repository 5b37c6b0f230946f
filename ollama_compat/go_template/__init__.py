"""Go's text/template, as far as Ollama's templates use it: `parse` makes a tree of a text, `render` a text of the tree.

A pure function of the template and its data: no clock is read and no file, and the work is bounded. `TemplateError`
is raised for what is not understood.
"""

from .functions import BUILTINS, ollamas
from .nodes import TemplateError, Tree
from .parser import parse
from .renderer import render
from .values import Map, Slice, Struct, Value

__all__ = ["BUILTINS", "Map", "Slice", "Struct", "TemplateError", "Tree", "Value", "ollamas", "parse", "render"]
