"""What the currying studies share: trained models, the contexts they are given, and the queries behind them."""
