"""Chat templates and conversations for test_chat_templates.py, in the ways that people write
them. No model's own template is among them."""

# ruff: noqa: E501  a template is broken where its parts are, not where a line is full

from __future__ import annotations

from typing import Any

TURN = "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
EACH = "{% for m in messages %}" + TURN + "{% endfor %}"
ASK = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"

TEMPLATES = {
    "plain": EACH + ASK,
    "concatenated": "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\\n' + m['content']"
    " + '<|im_end|>' + '\\n'}}{% endfor %}" + ASK,
    "tilde": "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\\n' ~ m.content | trim ~"
    " '<|im_end|>\\n' }}{% endfor %}" + ASK,
    "role of pieces": "{% for m in messages %}{{ '<|' + 'im_' ~ 'start|>' + m.role }}"
    "{{ m.content }}{{ '<|im' + '_end|>' }}{% endfor %}",
    "formatted": "{% for m in messages %}{{ '<|%s|>%s\\n%s' % ('im_start', m.role, m.content)"
    " }}{{ '%s' | format('<|im_end|>') }}{% endfor %}",
    "format method": "{% for m in messages %}{{ '<|im_start|>{}\\n{}<|im_end|>'.format(m.role,"
    " m.content) }}{{ '{x}-{0}'.format(1, x=m.role) }}{% endfor %}",
    "joined": "{% for m in messages %}{{ ['<|im_start|>', m.role, m.content] | join('\\n') }}"
    "{{ '<|im_end|>'.join(['a', 'b', m.content]) }}{% endfor %}",
    "macro": "{% macro turn(role, text='none') %}<|im_start|>{{ role }}\n{{ text }}<|im_end|>\n"
    "{% endmacro %}{% for m in messages %}{{ turn(m.role, m.content) }}{% endfor %}{{ turn('x')"
    " }}" + ASK,
    "call block": "{% macro turn(role) %}<|im_start|>{{ role }}\n{{ caller() }}<|im_end|>\n"
    "{% endmacro %}{% for m in messages %}{% call turn(m.role) %}{{ m.content }}{% endcall %}"
    "{% endfor %}" + ASK,
    "set block": "{% for m in messages %}{% set head %}<|im_start|>{{ m.role }}\n{% endset %}"
    "{{ head }}{{ m.content }}{{ '<|im_end|>' }}{% endfor %}",
    "filter block": "{% for m in messages %}{% filter upper %}{{ m.role }}: {{ m.content }}"
    "{% endfilter %}<|im_end|>{% endfor %}",
    "namespace": "{% set ns = namespace(first=true, text='') %}{% for m in messages %}{% if"
    " ns.first %}{{ bos_token }}{% set ns.first = false %}{% endif %}{% set ns.text = ns.text +"
    " m.content %}" + TURN + "{% endfor %}{{ ns.text }}" + ASK,
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}" + TURN + "{% endif"
    " %}{% endfor %}" + ASK,
    "generation with blanks": "{%- for m in messages -%}\n  {%- generation -%} x {{ m.content"
    " }} \n {%- endgeneration -%}\n{%- endfor -%}",
    "break and continue": "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{%"
    " endif %}" + TURN + "{% if loop.index > 2 %}{% break %}{% endif %}{% endfor %}" + ASK,
    "loop": "{% for m in messages %}{{ loop.index0 }}/{{ loop.length }}{{ '<|im_start|>' if"
    " loop.first else ', ' }}{{ m.content }}{{ eos_token if loop.last }}{{ loop.revindex }}"
    "{% endfor %}",
    "white space": "{% for m in messages %}\n    <|im_start|>{{ m['role'] }}\n    {%- if true"
    " %}\n  {{ m['content'] }}\n    {%- endif %}\n   <|im_end|>\n{% endfor %}\n\n  x  \n",
    "comment": "{# a comment #}\n{% for m in messages %}{#- one more -#}"
    + TURN
    + "{% endfor %}",
    "raw": "{% raw %}{{ not an expression }}{% endraw %}" + EACH,
    "tojson": "{% for m in messages %}{{ m | tojson }}\n{{ m.content | tojson }}{% endfor %}",
    "tojson ascii": "{% for m in messages %}{{ m.content | tojson(ensure_ascii=True) }}"
    "{% endfor %}",
    "tojson indent": "{{ messages | tojson(indent=2) }}|{{ messages | tojson(indent=4,"
    " sort_keys=true) }}",
    "tojson separators": "{{ messages | tojson(separators=(',', ':')) }}{{ {'b': 1, 'a': [1.5,"
    " none, true]} | tojson(sort_keys=true) }}",
    "strftime": "It is {{ strftime_now('%Y') }}{{ strftime_now('%d') | length }}.\n" + EACH,
    "strftime by name": "{{ strftime_now(format='%Y') }}" + EACH,
    "strftime if there": "{% if strftime_now is defined %}{% set y = strftime_now('%Y') %}{{ y"
    " }}{% endif %}" + EACH,
    "raise": "{% if messages | length > 90 %}{{ raise_exception('too many') }}{% endif %}"
    + EACH,
    "tools none": "{% if tools is not none %}{{ tools | tojson }}{% else %}no tools{% endif %}"
    + EACH,
    "tools": "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t.function.name }}: {{"
    " t | tojson(indent=4) }}\n{% endfor %}<|im_end|>{% endif %}" + EACH + ASK,
    "tool calls": "{% for m in messages %}{% if m.tool_calls %}{% for c in m.tool_calls %}"
    "<tool_call>{{ c.function.name }}({% for k, v in c.function.arguments.items() %}{{ k }}={{"
    " v }}{{ ', ' if not loop.last }}{% endfor %}){{ c.function.arguments | tojson }}"
    "</tool_call>{% endfor %}{% else %}" + TURN + "{% endif %}{% endfor %}" + ASK,
    "documents": "{% if documents %}{% for d in documents %}[{{ loop.index }}] {{ d.title }}\n"
    "{{ d.text | indent(2) }}\n{% endfor %}{% endif %}" + EACH,
    "documents none": "{{ documents is none }}{{ documents is defined }}" + EACH,
    "parts": "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{"
    " m.content }}{% else %}{% for p in m.content %}{{ p.text if p.type == 'text' else"
    " '<image>' }}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}" + ASK,
    "special tokens": "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ unk_token }}{{ sep_token"
    " }}{{ cls_token }}{{ mask_token }}{{ image_token }}|{{ pad_token is defined }}{{ cls_token"
    " is defined }}" + EACH,
    "token comparison": "{% if eos_token in '<|im_end|> or so' and bos_token != eos_token %}y{%"
    " endif %}{{ eos_token | length }}{{ eos_token[2:5] }}" + EACH,
    "strip": "{% for m in messages %}[{{ m.content.strip() }}][{{ m.content.lstrip('\\n') }}]["
    "{{ m.content.rstrip() }}][{{ '  <|im_end|> '.strip() }}]{% endfor %}",
    "split": "{% for m in messages %}{% if '</think>' in m.content %}{{ m.content.split("
    "'</think>')[-1].lstrip('\\n') }}{% else %}{{ m.content.split() | join('|') }}{% endif %}"
    "{{ '<|im_start|>x<|im_end|>'.split('x')[0] }}{{ 'a,b,c'.rsplit(',', 1) }}{% endfor %}",
    "partition": "{% for m in messages %}{{ m.content.partition(' ')[2] }}{{ '<|im_end|>=b'"
    ".partition('=')[0] }}{{ m.content.splitlines() }}{% endfor %}",
    "cases": "{% for m in messages %}{{ m.content | upper }}{{ m.content.title() }}{{ m.content"
    " | capitalize }}{{ '<|IM_END|>' | lower }}{{ m.content.lower() }}{{ m.role | title }}{%"
    " endfor %}",
    "replace": "{% for m in messages %}{{ m.content | replace('a', '<|im_end|>') }}{{ m.content"
    ".replace('e', 'E', 1) }}{{ '<X>' | replace('X', '|im_end|') }}{% endfor %}",
    "slices": "{% for m in messages[1:] %}{{ m.content[:3] }}{{ m.content[-1:] }}{{ m.content["
    "::-1] }}{% endfor %}{{ messages[0]['content'][0] if messages[0].content }}{{ messages[-1]"
    ".role }}",
    "first and last": "{{ (messages | first).content }}{{ (messages | last)['role'] }}{{"
    " messages | map(attribute='role') | join(',') }}{{ messages | selectattr('role',"
    " 'equalto', 'user') | list | length }}{{ messages | rejectattr('role', 'eq', 'user') |"
    " map(attribute='content') | list }}",
    "tests": "{% for m in messages %}{{ m.content is string }}{{ m.nothing is defined }}{{ m is"
    " mapping }}{{ m.content is iterable }}{{ loop.index is odd }}{{ m.content is none }}{%"
    " endfor %}",
    "undefined": "{{ enable_thinking }}{{ enable_thinking is defined and enable_thinking }}{{"
    " (x.y is defined) if (x is defined) else 'no x' }}{{ missing | default('<|im_end|>') }}"
    + EACH,
    "arithmetic": "{{ 7 // 2 }}{{ 2 ** 5 }}{{ 7 % 4 }}{{ 1 / 4 }}{{ -3 + 1.5 }}{{ 3 * 'ab' }}{{"
    " messages | length * 2 }}" + EACH,
    "lists": "{% set xs = [] %}{% for m in messages %}{% set xs = xs + [m.content] %}{{ xs }}{%"
    " endfor %}{{ [1, 'a', none] + ['<|b|>'] }}{{ ('a', 2) }}",
    "dicts": "{% set names = {'user': '<|im_start|>U', 'assistant': 'A'} %}{% for m in messages"
    " %}{{ names[m.role] if m.role in names else names.get(m.role, '?') }}{{ m.content }}{%"
    " endfor %}{% for k, v in names.items() %}{{ k }}{{ v }}{% endfor %}{{ dict(a=1, b='x') }}",
    "sort": "{{ messages | map(attribute='content') | sort | list }}{% for k in messages[0] |"
    " dictsort %}{{ k }}{% endfor %}{{ [3, 1, 2] | sort(reverse=true) }}{{ 'b,a' | sort }}",
    "group": "{% for g in messages | groupby('role') %}{{ g.grouper }}: {% for m in g.list %}{{"
    " m.content }};{% endfor %}{% endfor %}",
    "indent and wrap": "{% for m in messages %}{{ m.content | indent(4, first=true) }}{{"
    " '<|im_end|>\\nx' | indent(1) }}{{ m.content | wordwrap(10) }}{{ m.content | truncate(9)"
    " }}{{ m.content | center(20) }}{% endfor %}",
    "starts and ends": "{% for m in messages %}{% if m.content.startswith('a') or m.content"
    ".endswith('?') %}!{% endif %}{{ m.content.find('o') }}{{ m.content.count('l') }}"
    + TURN
    + "{% endfor %}",
    "recursive loop": "{% for m in messages recursive %}{{ m.content }}{% if m.inner %}{{ loop("
    "m.inner) }}{% endif %}{% endfor %}",
    "loop over text": "{% for c in messages[0].content %}{{ c }}.{% endfor %}{% for c in"
    " '<|im_end|>' %}{{ c }}{% endfor %}",
    "loop else": "{% for m in messages if m.role == 'nobody' %}{{ m }}{% else %}<|im_end|>none{%"
    " endfor %}",
    "with": "{% with a='<|im_start|>', b=messages[0].content %}{{ a }}{{ b }}{% endwith %}",
    "safe and escape": "{{ '<|im_end|>' }}{{ messages[0].content | safe }}{{ messages[0].content"
    " | e }}{{ '<b>' + (messages[0].content | safe) }}",
    "block": "{% block head %}<|im_start|>{{ messages[0].role }}{% endblock %}{{ self.head() }}"
    + EACH,
    "nested macros": "{% macro a(x) %}[{{ x }}]{% endmacro %}{% macro b(x) %}{{ a(x) ~ a(x) }}{%"
    " endmacro %}{{ b(messages[0].content) }}{{ b('<|im_end|>') }}",
    "cycler and joiner": "{% set c = cycler('<|im_start|>', 'b') %}{% set j = joiner(', ') %}{%"
    " for m in messages %}{{ j() }}{{ c.next() }}{{ m.content }}{% endfor %}",
    "chained filters": "{% for m in messages %}{{ m.content | trim | replace('\\n', ' ') | lower"
    " | list | length }}{{ m.content | string | reverse }}{{ m.content | wordcount }}{% endfor"
    " %}{{ [1, 2.5] | sum }}{{ '3' | int + 1 }}{{ [1, 2, 3, 4, 5] | batch(2) | list }}",
    "inline if": "{{ 'sys' if messages[0].role == 'system' else 'no sys' }}{{ '' if false }}"
    + EACH,
    "reasoning": "{% for m in messages %}{% if m.reasoning_content %}<think>{{"
    " m.reasoning_content }}</think>{% endif %}{{ m.thinking }}" + TURN + "{% endfor %}",
    "nothing": "{% for m in messages %}{% endfor %}",
    "escapes": '{{ "\\t\\"<|im_end|>\\u00e9\\\\" }}' + "{{ 'it\\'s' }}" + EACH,
    "hex of a token": "{{ '\\x3c|im_end|>' }}{{ '<' 'im' }}" + EACH,
}

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": 'Tells the weather <now> & "then" in é\u2028.',
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = {
    "type": "function",
    "function": {"name": "weather", "arguments": {"city": "Köln", "n": 3}},
}

CONVERSATIONS: dict[str, dict[str, Any]] = {
    "one": {"messages": [{"role": "user", "content": "It's <b>é</b>, the rain"}]},
    "system": {
        "messages": [
            {"role": "system", "content": "  You are the one.  \n"},
            {"role": "user", "content": "the\tthe  the?\n\n"},
        ]
    },
    "turns": {
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "hm</think>\n\nthe answer\u00a0\u2003here"},
            {"role": "user", "content": "日本語 \U0001f600 e\u0301 ﬁ İ ß ς"},
            {"role": "assistant", "content": "ok", "reasoning_content": "the why"},
        ],
        "add_generation_prompt": False,
    },
    "empty": {"messages": [{"role": "user", "content": ""}]},
    "tools": {
        "messages": [
            {"role": "user", "content": "the weather"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": '{"t": 3}', "name": "weather"},
        ],
        "tools": [TOOL],
    },
    "documents": {
        "messages": [{"role": "user", "content": "who\r\nis\x0bit"}],
        "documents": [{"title": "T", "text": "one\ntwo"}, {"title": "", "text": ""}],
    },
    "parts": {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "text", "text": "the "}, {"type": "image"}],
            }
        ]
    },
    "odd roles": {"messages": [{"role": "Nobody <x>", "content": "x", "inner": []}]},
}
