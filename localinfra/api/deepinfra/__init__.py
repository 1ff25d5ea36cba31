"""DeepInfra's native API, /v1/inference/{model}: a file for each kind of model; uses openai/."""
