"""The only caller of ``sql/queries``: one module per table, each function one statement."""
