# Leaves out what llama-cpp-python compiles and localinfra doesn't use: llama.cpp's `common`, half of
# the whole time. CMake reads this file after llama.cpp's project(), since
# llama-cpp-python would overrule the option on the command line.
set(LLAMA_BUILD_COMMON OFF)
