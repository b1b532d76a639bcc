"""Tools that steps and agents may call. Importing this registers the built-in ones; see `registry.py` to write one."""

from shared.tools import builtin as builtin
from shared.tools import registry as registry
from shared.tools.registry import Tool as Tool
from shared.tools.registry import ToolContext as ToolContext
from shared.tools.registry import tool as tool
