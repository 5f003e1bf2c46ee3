"""Functions that a notebook defines, to be tested without running it."""

import ast

from humr.launch import execution


def functions(number, *names, **given):
    """Some functions of a notebook, which see its imports and constants, and what is given."""

    def kept(node):
        if isinstance(node, ast.Assign):
            return all(isinstance(t, ast.Name) and t.id.isupper() for t in node.targets)
        return isinstance(node, (ast.Import, ast.ImportFrom)) or vars(node).get("name") in names

    cells = execution.code_cells(execution.find(number))
    nodes = [node for cell in cells for node in ast.parse(cell).body if kept(node)]
    space = dict(given)
    exec(compile(ast.Module(nodes, []), f"notebook {number}", "exec"), space)  # noqa: S102
    return [space[name] for name in names]
