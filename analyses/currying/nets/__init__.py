"""What the currying studies share: trained models, the contexts they are given, the queries behind them,
learned pairs one at a time, and a table whose rows come seed by seed."""
