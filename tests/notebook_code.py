"""Functions that a notebook defines, to be tested without running it."""

import ast

from humr.launch import execution


def functions(number, *names, **given):
    """Functions of a notebook, with its imports, the constants they use, and what is given."""
    cells = execution.code_cells(execution.find(number))
    nodes = [node for cell in cells for node in ast.parse(cell).body]
    wanted = [node for node in nodes if vars(node).get("name") in names]
    used = {leaf.id for node in wanted for leaf in ast.walk(node) if isinstance(leaf, ast.Name)}

    def kept(node):
        if isinstance(node, ast.Assign):
            return {ast.unparse(t) for t in node.targets if ast.unparse(t).isupper()} & used
        return isinstance(node, (ast.Import, ast.ImportFrom)) or node in wanted

    space = dict(given)
    module = ast.Module([node for node in nodes if kept(node)], [])
    exec(compile(module, f"notebook {number}", "exec"), space)  # noqa: S102
    return [space[name] for name in names]
