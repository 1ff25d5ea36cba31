# scripts/serve for Windows: serves the models of models.toml; the first run sets up .venv.
#   powershell -ExecutionPolicy Bypass -File scripts\serve.ps1 --help
# LOCALINFRA_PYTHON names the Python for .venv: 3.11 or newer; the default is the newest one.
$ErrorActionPreference = 'Stop'
$root = Split-Path -Parent $PSScriptRoot
if ($env:LOCALINFRA_PYTHON) { & $env:LOCALINFRA_PYTHON "$root\scripts\setup.py" serve }
elseif (Get-Command py -ErrorAction SilentlyContinue) { & py -3 "$root\scripts\setup.py" serve }
else { & python "$root\scripts\setup.py" serve }
if ($LASTEXITCODE) { exit $LASTEXITCODE }
& "$root\.venv\Scripts\localinfra.exe" serve @args
exit $LASTEXITCODE
