"""Chat templates in the manner of well-known models, written for these tests."""

import functools

from localinfra.chat.template import ChatTemplate

SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|im_end|>x", "<|eot_id|>", "[INST]"]
SPECIAL += ["[/INST]", "<start_of_turn>", "<end_of_turn>", "<tool_call>", "</think>"]

# Contents, and calls in a form of their own.
SHOWS_CALLS = """
{%- for message in messages %}
    {{- message.content or '' }}
    {%- for call in message.tool_calls or [] %}
        {{- '<call>' ~ call.function.name ~ call.function.arguments | tojson ~ '</call>' }}
    {%- endfor %}
{%- endfor %}
"""

CHATML = """
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
"""

TRIMMING = CHATML.replace("message['content']", "(message['content'] | trim)")

LLAMA = """
{{- bos_token }}
{%- if messages[0].role == 'system' %}
    {%- set system, messages = messages[0].content | trim, messages[1:] %}
{%- else %}
    {%- set system = 'Today is ' ~ strftime_now('%d %b %Y') %}
{%- endif %}
{%- macro header(role) %}<|start|>{{ role }}<|end|>

{% endmacro %}
{{- header('system') ~ system }}<|eot_id|>
{%- for message in messages %}
    {{- header(message.role) ~ (message.content | trim) }}<|eot_id|>
{%- endfor %}
{%- if add_generation_prompt %}{{ header('assistant') }}{% endif %}
"""

GEMMA = """
{{- bos_token }}
{%- if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user') }}
    {%- endif %}
    {%- set role = 'model' if message.role == 'assistant' else message.role %}
    {{- '<start_of_turn>' ~ role ~ '\n' ~ message.content | trim ~ '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}
"""

MISTRAL = """
{{- bos_token }}
{%- set system = namespace(text='') %}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {%- if not loop.first %}{{ raise_exception('System messages must come first') }}{% endif %}
        {%- set system.text = message.content + '\n\n' %}
        {%- continue %}
    {%- endif %}
    {%- if loop.previtem is defined and loop.previtem.role == message.role %}
        {{- raise_exception('After a ' ~ message.role ~ ' message another role must follow') }}
    {%- endif %}
    {%- if message.role == 'user' %}
        {{- '[INST] ' ~ (system.text if loop.last else '') ~ message.content ~ '[/INST]' }}
    {%- elif message.role == 'assistant' %}
        {{- ' ' ~ message.content ~ eos_token }}
    {%- endif %}
{%- endfor %}
"""

QWEN = """
{%- if tools %}
    {{- '<|im_start|>system\n# Tools' }}
    {%- for tool in tools %}{{ '\n' ~ tool | tojson }}{% endfor %}
    {{- '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(last_query=-1) %}
{%- for message in messages[::-1] %}
    {%- if ns.last_query < 0 and message.role == 'user' %}
        {%- set ns.last_query = messages | length - 1 - loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == 'assistant' and '</think>' in content %}
        {%- set reasoning = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}
        {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- if loop.index0 > ns.last_query %}
            {%- set content = '<think>\n' ~ reasoning ~ '\n</think>\n\n' ~ content %}
        {%- endif %}
    {%- endif %}
    {{- '<|im_start|>' ~ message.role ~ '\n' ~ content }}
    {%- for call in message.tool_calls or [] %}
        {{- '<tool_call>\n{"name": "' ~ call.function.name ~ '", "arguments": ' }}
        {{- call.function.arguments | tojson ~ '}\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and not enable_thinking %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
"""

# Takes no notice of system messages.
DEAF = """
{%- for message in messages %}
    {%- if message.role == 'user' %}{{ 'User: ' ~ message.content ~ '\n' }}
    {%- elif message.role == 'assistant' %}{{ 'Bot: ' ~ message.content ~ '\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'Bot: ' }}{% endif %}
"""

# Turns and ids as strict as Mistral's: users and answers alternate, calls and results beside.
NEMO = """
{%- if messages[0].role == 'system' %}
    {%- set system, loop_messages = messages[0].content, messages[1:] %}
{%- else %}
    {%- set system, loop_messages = '', messages %}
{%- endif %}
{%- set ns = namespace(index=0) %}
{%- for message in loop_messages if message.role in ('user', 'assistant') %}
    {%- if not message.tool_calls %}
        {%- if (message.role == 'user') != (ns.index % 2 == 0) %}
            {{- raise_exception('After the optional system message, roles must alternate') }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message.role == 'user' %}
        {%- if loop.first and tools %}{{ '[TOOLS]' ~ tools | tojson ~ '[/TOOLS]' }}{% endif %}
        {{- '[INST]' ~ (system ~ '\n\n' if loop.last and system else '') }}
        {{- message.content ~ '[/INST]' }}
    {%- elif message.tool_calls %}
        {{- '[TOOL_CALLS][' }}
        {%- for call in message.tool_calls %}
            {%- if call.id is not defined or call.id | length != 9 %}
                {{- raise_exception('Tool call IDs should be alphanumeric strings of length 9!') }}
            {%- endif %}
            {{- call.function | tojson ~ call.id ~ (']' if loop.last else ', ') }}
        {%- endfor %}
        {{- eos_token }}
    {%- elif message.role == 'assistant' %}{{ ' ' ~ message.content ~ eos_token }}
    {%- elif message.role == 'tool' %}
        {%- if message.tool_call_id is not defined or message.tool_call_id | length != 9 %}
            {{- raise_exception('Tool call IDs should be alphanumeric strings of length 9!') }}
        {%- endif %}
        {{- '[TOOL_RESULTS]' ~ message.content ~ message.tool_call_id ~ '[/TOOL_RESULTS]' }}
    {%- else %}{{ raise_exception('Only user and assistant roles are supported') }}
    {%- endif %}
{%- endfor %}
"""

# One call a message and no answer without one's result, as with Llama 3 and Mistral's later ones.
ONE_CALL = """{# ipython "parameters" #}
{%- if tools is not none %}{{ tools | tojson }}{% endif %}
{%- set ns = namespace(num_open=0) %}
{%- for message in messages %}
    {%- if ns.num_open and message.role != 'tool' %}
        {{- raise_exception('Not the same number of function calls and responses') }}
    {%- endif %}
    {{- '<|start|>' ~ message.role ~ '<|end|>' }}
    {%- if message.role == 'assistant' and 'tool_calls' in message %}
        {%- if message.tool_calls | length != 1 %}
            {{- raise_exception('This model only supports single tool-calls at once!') }}
        {%- endif %}
        {%- set ns.num_open = 1 %}
        {{- message.tool_calls[0].function | tojson }}
    {%- elif message.role == 'tool' %}
        {%- if not ns.num_open %}{{ raise_exception('Nobody asked for this') }}{% endif %}
        {%- set ns.num_open = 0 %}
        {{- message.content }}
    {%- else %}{{ message.content }}
    {%- endif %}
    {{- '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start|>assistant<|end|>' }}{% endif %}
"""


@functools.cache
def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, bos_token="<s>", eos_token="</s>", special_tokens=SPECIAL)
