"""The texts, chats and templates of make_text_golden.py."""

TRAINING_TEXT = [
    "The ferry leaves the harbour at seven, and whoever misses it waits until noon.",
    "A small boat, two words of thanks, and the long way home through the rain.",
    "She counted 12 gulls, then 345, then lost count; the year was 1987 or 2006.",
    "def area(width, height):\n    return width * height  # in square metres\n",
    "for (int i = 0; i < n; ++i) { total += values[i]; }\n",
    "Der Zug fährt über die Brücke, wenn das Wetter schön ist. Größe, Fuß, Ärger.",
    "Les élèves français préfèrent la forêt à l'été, où l'eau est fraîche.",
    "Поезд идёт на север, и снег лежит на полях до самой весны.",
    "城市里的雨下了一整天, 我们在家里喝茶. 天气很好.",
    "こんにちは、今日はいい天気ですね。",
    "user assistant system end start in the and of to that it is was for on with as",
    "https://example.org/path?query=value&other=1 name@example.org",
    "It's the captain's boat; they've said we'll see, I'd guess you're right, I'm sure.",
] * 3

CORPUS = [
    "",
    " ",
    "   ",
    "\n",
    "\n\n\n",
    "\t\t x",
    " \n \n ",
    "a",
    "Hello world",
    " Hello world",
    "Hello world ",
    "  two   spaces    everywhere  ",
    "trailing newline\n",
    "line\r\nbreaks\rof\nall\u2028kinds\u2029here\x0b\x0c",
    "It's, don't, we'll, I'D, they'Ve, o'clock 's",
    "1 12 123 1234 12345 3.14159 1,000,000 0x1F 1e-9 ½ ² Ⅷ ٣٤٥ ४५६",
    "émigré naïve façade Ångström",
    "e\u0301 a\u0308 n\u0303 \u0301\u0301\u0301 leading marks",
    "Z\u0351\u036b\u0343\u032a\u0302\u036bA\u0334\u0315L\u0360\u034cG\u0321O\u033a",
    "👍 👍🏽 👨‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷 ❤️ ☺︎ 🧑🏿‍🚀",
    "中文和English混排, 日本語も한국어도。「引用」（括弧）",
    "繁體字 简体字 漢字かな交じり文 ㍿ ﾊﾝｶｸ Ｆｕｌｌ",
    "Привет, мир! Ελληνικά. Հայերեն. ქართული",
    "مرحبا بالعالم, שלום עולם \u202bembedded\u202c \u200fmark",
    "हिन्दी क्षत्रिय தமிழ் ภาษาไทย မြန်မာစာ ខ្មែរ",
    "zero\u200bwidth\u200cjoin\u200der\ufeffbom soft\u00adhyphen nb\u00a0space \u3000ideographic",
    "control \x00 \x01 \x07 \x08 \x1b[31m \x7f \x85 \x9f chars",
    "\x00",
    "\x00\x00\x00",
    "noncharacters \ufdd0 \ufdef \ufffe \U0001ffff and \ufffd",
    "highest \U0010ffff private \ue000 \U000f0000",
    "def f(x):\n\treturn {k: v for k, v in x.items() if k != 'a'}\n\n\n",
    "#include <vector>\nint main() { std::vector<int> v{1,2}; return v[0]<<2; }",
    "SELECT * FROM t WHERE a='b' -- comment\n;",
    '{"json": [1, 2.5, null, true], "s": "\\u00e9\\n"}',
    "<html><body class=\"x\">&amp;</body></html> <!-- -->",
    "$\\frac{a}{b}$ ∑∫√∞ ≤≥≠ → ⇒",
    "http://user:pw@example.org:80/a/b.c?d=e&f=g#h",
    "_snake_case camelCase PascalCase kebab-case SCREAMING_CASE",
    "...!!!???---===###***///\\\\\\|||~~~```",
    "<|im_start|>user\nhi<|im_end|>\n<|endoftext|>",
    "a<|im_end|>b <|im_end|> c<|im_end|><|im_end|>",
    "<|im_end|", "|im_end|>", "<<|im_end|>>", "<|im_<|im_end|>end|>", "< |im_end|>",
    "<s>a</s> <s> </s>  <unk>", "x<s>", "<s", "</s", "▁</s>▁", "▁▁a▁b",
    " <|left|> a  <|left|>b", "a <|right|>  b<|right|>\n\nc", "x<|word|> <|word|>y <|word|> z",
    "one two words three", "<think>\nso\n</think>", "[END] a[END] [END]b",
    "<|user|>hi<|end|><|assistant|>", "<0x41> <0x0A><0xE2>",
    "word" * 60,
    "ab " * 100,
    "日" * 100,
    "\u0301" * 50,
    " " * 200 + "x",
    "\n" * 100 + " " * 100 + "\t" * 10,
]

MEBI = 1 << 20
LARGE = [
    ("a", MEBI), (" ", MEBI), ("1", MEBI), ("\n", MEBI), ("é", MEBI // 2),
    ("日", MEBI // 3), ("😀", MEBI // 4), ("<", MEBI), ("\x00", MEBI), ("\u0301", MEBI // 2),
    ("a ", MEBI // 2), ("<|im_end|>", MEBI // 10), ("</s>", MEBI // 4),
]


def _chat(*turns: str) -> list[dict[str, str]]:
    return [{"role": turn.partition(":")[0], "content": turn.partition(":")[2]} for turn in turns]


CHATS = [
    (_chat("user:Hello"), True),
    (_chat("user:Hello"), False),
    (_chat("system:Be brief.", "user:Hi there", "assistant:Hello!", "user:And now?"), True),
    (_chat("user:  spaces around  ", "assistant:\n\nnewlines\n\n", "user:\t"), True),
    (_chat("user:"), True),
    (_chat("system:", "user:x"), False),
    (_chat("user:1 + 1 = 2, isn't it?", "assistant:Yes."), False),
    (_chat("user:emoji 👨‍👩‍👧‍👦, 中文, עברית, e\u0301, \x00, \u200b"), True),
    (_chat("user:a < b | c > d <| |> <s [x] </", "assistant:<html></html>"), True),
    (_chat("user:<think>not special</think>", "assistant:two words"), True),
    (_chat("user:end", "assistant:im", "user:s"), True),
    (_chat("user:" + "long " * 300), True),
    (_chat(*["user:q", "assistant:a"] * 20, "user:last"), True),
]

# Each in the manner of a family, together using what templates use: loops, namespaces, slices,
# Python's methods, filters, tests, macros, whitespace control.
TEMPLATES = {
    "byte_level": """\
{% if messages[0]['role'] == 'system' %}
    {%- set rest = messages[1:] %}
    {{- bos_token + 'system\\n' + messages[0]['content'] + eos_token + '\\n' }}
{%- else %}
    {%- set rest = messages %}
    {{- '<|im_start|>system\\nAnswer well.<|im_end|>\\n' }}
{%- endif %}
{% for message in rest %}
    {% if message['role'] not in ['user', 'assistant'] %}
        {{ raise_exception('unknown role ' + message['role'] + '!') }}
    {% endif %}
    {% if tools is not none %}tools: {{ tools | tojson }}{% endif %}
{{- '<|im_start|>' + message.role + '\\n' }}
    {%- generation %}
        {{- message.content.lstrip('\\n') + '<|im_end|>\\n' }}
    {%- endgeneration %}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\\n' }}
{% endif %}
""",
    "llama2": """\
{% set ns = namespace(system='', index=0) %}
{% if messages[0].role == 'system' %}
{% set ns.system = '<<SYS>>\\n' ~ messages[0].content | trim ~ '\\n<</SYS>>\\n\\n' %}
{% endif %}
{% for m in messages if m.role != 'system' %}
{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception("roles must alternate") }}
{% endif %}
{% if m.role == 'user' %}
{{ bos_token + '[INST] ' }}{{ ns.system if loop.first else '' }}{{ m.content.strip() }} [/INST]
{%- else %}
{{ ' ' + m['content'] | trim + ' ' + eos_token }}
{%- endif %}
{% set ns.index = ns.index + 1 %}
{% endfor %}
""",
    "metaspace": """\
{% macro turn(role, text) -%}
{{ '<|' + role + '|>' }}
{{ text if text is string and text | length > 0 else none }}<|end|>
{% endmacro -%}
{{ bos_token }}
{%- for m in messages %}{{ turn(m.role, m.content) }}{% endfor %}
{{ {'n': messages | length, 'é': [1, true, none, "</s"[:1]]} | tojson }}
{%- if add_generation_prompt %}<|assistant|>
{% else %}{{ eos_token }}{% endif %}
""",
}

# Rendered for SNIPPET_CHAT: constructs that published templates use.
SNIPPET_CHAT = _chat("system: Sys ", "user:Hi\nthere <b> & 'q' \"d\" é", "assistant:<t>x</t>\n\ny")
SNIPPETS = [
    "{{ messages[::-1] | map(attribute='role') | join(',') }}",
    "{{ messages[-1].content.split('</t>')[-1].lstrip('\\n') }}|{{ messages[-1]['content'][:2] }}",
    "{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ ' ' if not loop.last }}{% endfor %}",
    "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% break %}{% endfor %}",
    "{% set ns = namespace(n=0, found=false) %}{% for m in messages %}{% set ns.n = ns.n + m.content|length %}{% endfor %}{{ ns.n }} {{ ns.found }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
    "{{ messages | rejectattr('role', 'in', ['user', 'tool']) | map(attribute='role') | list | join('+') }}",
    "{{ messages[1] | tojson }}",
    "{{ messages[1] | tojson(indent=2) }}",
    "{{ messages[1].content | tojson(ensure_ascii=True) }}{{ messages[1].content | tojson(ensure_ascii=False) }}",
    "{{ {'a': [1, 2.5, true, none, 'x'], 'b': {}, 'c': []} | tojson }}",
    "{{ none }} {{ true }} {{ false }} {{ 1 }} {{ 2.5 }} {{ undefined_name }}|",
    "{{ tools is none }} {{ tools is defined }} {{ nope is defined }} {{ documents is none }}",
    "{{ messages[0].content is string }} {{ messages[0] is mapping }} {{ messages is iterable }} {{ messages[0].content is iterable }} {{ messages is sequence }}",
    "{{ messages[0].tool_calls is defined }} {{ messages[0].get('tool_calls') is none }} {{ messages[0].get('x', 'y') }}",
    "{{ 'tool_calls' in messages[0] }} {{ 'content' in messages[0] }} {{ 'Hi' in messages[1].content }}",
    "{{ messages[1].content.startswith('Hi') and not messages[1].content.endswith('Hi') }}",
    "{{ messages[0].content.strip() }}|{{ messages[0].content | trim }}|{{ messages[0]['content'].rstrip() }}|",
    "{{ messages[1].content.replace('there', 'here') }} {{ messages[1].content | replace('Hi', 'Ho') }}",
    "{{ 'abc'.upper() }} {{ 'ABC' | lower }} {{ 'a b'.title() }} {{ 'ab' * 3 }} {{ 'x' ~ 1 ~ true }}",
    "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for line in messages[1].content.split('\\n') %}[{{ line }}]{% endfor %}",
    "{% set m = messages[0] %}{%- if m.role == 'system' -%}\n  yes  \n{%- endif -%}\n\n  end\n\n",
    "  {% if true %}\n    indented\n  {% endif %}\n  {# comment #}\nlast\n",
    "{% macro f(a, b='z') %}<{{ a }}{{ b }}>{% endmacro %}{{ f('q') }}{{ f('q', b='r') }}",
    "{% set text %}  captured {{ 1 + 1 }}  {% endset %}[{{ text }}][{{ text | trim }}]",
    "{{ messages | length > 2 and messages[0].role != 'user' or false }}",
    "{{ (messages | first).role }} {{ (messages | last).role }} {{ messages[1:] | length }}",
    "{{ 7 // 2 }} {{ 7 % 3 }} {{ 2 ** 5 }} {{ 7 / 2 }} {{ 10 - 3 * 2 }}",
    "{{ messages[0].nope | default('d') }} {{ none | default('d', true) }} {{ '' or 'fallback' }}",
    "{{ bos_token }}{{ eos_token }}{% if pad_token is defined %}{{ pad_token }}{% endif %}",
    "{% filter upper %}{{ messages[1].role }}{% endfilter %} {{ 'a,b' | list | length }}",
    "{{ range(3) | join(' ') }} {{ range(5, 0, -2) | list | join(' ') }} {{ [1, 2] + [3] == [1, 2, 3] }}",
    "{% if messages[0].role is in ['system'] %}in{% endif %}{{ 'é<&>' | e }}",
    "{%- for m in messages if m.role != 'system' %}{{ loop.index0 }}{{ m.role }} {% else %}none{% endfor %}",
    "{{ messages[1].content.split('\\n', 1)[0] }}{{ messages[1].content.splitlines() | length }}",
    "{{ [messages[0].role, 'x'] | join }} {{ ['b', 'a'] | sort | join }} {{ 'abc' | reverse }}",
    "{{ 'n: %d' | format(5) }} {{ '%s-%s' | format('a', 'b') }} {{ 'abc' | capitalize }}",
    "{{ raise_exception is defined }} {{ strftime_now is defined }} {{ add_generation_prompt }}",
]
