"""What people look at: page, tables, figures, paper."""
