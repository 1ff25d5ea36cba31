# scripts/serve for Windows: serves the models of models.toml; the first run sets up .venv.
#   powershell -ExecutionPolicy Bypass -File scripts\serve.ps1 --help
# LOCALINFRA_PYTHON names the Python for .venv: 3.11 or newer; the default is the newest one.
$ErrorActionPreference = 'Stop'
$root = Split-Path -Parent $PSScriptRoot
$python, $options = 'python', @()
if ($env:LOCALINFRA_PYTHON) { $python = $env:LOCALINFRA_PYTHON }
elseif (Get-Command py -ErrorAction SilentlyContinue) { $python, $options = 'py', @('-3') }
if (-not (Get-Command $python -ErrorAction SilentlyContinue)) {
    throw "localinfra needs Python 3.11 or newer: winget install Python.Python.3.12"
}
& $python @options -c 'import sys; sys.exit(sys.version_info < (3, 11))'
if ($LASTEXITCODE) { throw "$python is not a working Python 3.11 or newer: set LOCALINFRA_PYTHON to one." }
& $python @options "$root\scripts\setup.py" serve
if ($LASTEXITCODE) { exit $LASTEXITCODE }
& "$root\.venv\Scripts\localinfra.exe" serve @args
exit $LASTEXITCODE
