"""Read answers, as trees, and compare them. Nothing is dropped on the way: what cannot be read is not graded.

Modules import only what stands above them.

| module | what |
|---|---|
| spelling, tokens | one spelling for every character; the tokens of an answer |
| tree, structure | what a formula is once it is read; questions about trees |
| unit_table, counted, units, unit_ratios | the units, counted nouns, reading a unit, the ratio of two |
| cursor, wording | a place in the tokens; words around formulas |
| measures, brackets, blocks, names, atoms, parse | the parser, from values with units to whole answers |
| verdicts | combining the verdicts on parts |
| arithmetic, functions, steps, folds, values | the value of a formula, with all the digits that it takes |
| points, readings, proofs, complex_names, agree | whether two formulas are equal, and how that is shown |
| derivatives, sums, plus_minus, words | other notations of derivatives, sums, plus-minus signs and texts |
| quantities, matrices, piecewise | values with units, matrices and cases: whether they are equal |
| estimates, relations, fronts, approximations | equations, names in front of answers, approximate signs |
| intervals, inequalities, domains, set_reader, families, set_units, sets | sets in any notation: whether they are equal |
| quantified | what is said about names and leaves an answer as it is |
| compare, judge | two answers of any kind; the verdict and its reason |
"""
