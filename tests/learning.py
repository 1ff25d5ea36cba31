"""Chat templates for tests of what is learned from one: a frame, and parts for it."""

from chat_templates import template

from localinfra.chat.formats.form import Voice

# `says` is the text of an assistant's message, and `begins` what begins it in the prompt.
FRAME = """
{{- tools | tojson if tools }}
{%- for message in messages %}
    {%- if message.role != 'assistant' %}<|{{ message.role }}|>{{ message.content }}<|end|>
    {%- else %}{{ '<|bot|>' }}SAYS{{ '<|end|>' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|bot|>' }}BEGINS{% endif %}
"""
CONTENT = "{{ message.content or '' }}"
EACH = "{% for call in message.tool_calls or [] %}{% set call = call.function %}"
TAGS = "{% for key, value in call.arguments.items() %}"
END = "{% endfor %}"


def learned(says: str, begins: str = "") -> Voice:
    return template(FRAME.replace("SAYS", says).replace("BEGINS", begins)).voice


HERMES = (
    EACH
    + """{{- '\n<tool_call>\n{"name": "' ~ call.name ~ '", "arguments": ' }}
    {{- call.arguments | tojson ~ '}\n</tool_call>' }}"""
    + END
)
