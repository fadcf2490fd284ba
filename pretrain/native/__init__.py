"""The engine in C++: the step and the optimizer, compiled with the package where there is a compiler."""
