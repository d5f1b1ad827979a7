// Chat templates against transformers' renderings, and what foreign templates can get wrong.
#include "wick/chat_template.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "io_test_util.h"
#include "wick/error.h"

namespace wick {
namespace {

using OrderedJson = nlohmann::ordered_json;

std::string read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string render(const std::string& source, const std::string& messages = R"([{"role":"user","content":"hi"}])") {
  return ChatTemplate::parse(source, "t.jinja").render_json(messages);
}

void expect_error(ErrorCode code, const std::string& source, const std::string& part) {
  try {
    const std::string text = render(source);
    ADD_FAILURE() << "rendered " << text.substr(0, 200) << ", expected an error with \"" << part << "\"";
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_EQ(error.code(), code) << message;
    EXPECT_NE(message.find(part), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    EXPECT_TRUE(message.starts_with("t.jinja: line ")) << message;
  }
}

TEST(ChatTemplate, MatchesTransformers) {
  const std::filesystem::path folder = std::filesystem::path(WICK_TEST_DATA) / "chat";
  const OrderedJson expected = OrderedJson::parse(read(folder / "expected.json"));
  std::size_t compared = 0;
  for (const auto& [file, results] : expected["templates"].items()) {
    const ChatTemplate chat = ChatTemplate::parse(read(folder / file), file);
    for (std::size_t i = 0; i < results.size(); ++i) {
      SCOPED_TRACE(file + " of case " + std::to_string(i));
      const OrderedJson& c = expected["cases"][i];
      const ChatOptions options{.add_generation_prompt = c["add_generation_prompt"].get<bool>(),
                                .variables = c["variables"].dump()};
      ++compared;
      if (results[i].contains("error")) {
        EXPECT_THROW(chat.render_json(c["messages"].dump(), options), Error);
        continue;
      }
      try {
        EXPECT_EQ(chat.render_json(c["messages"].dump(), options), results[i]["text"].get<std::string>());
      } catch (const Error& error) {
        ADD_FAILURE() << error.what();
      }
    }
  }
  EXPECT_EQ(compared, 90U);
}

TEST(ChatTemplate, RendersTheTalesModel) {
  const auto chat = ChatTemplate::from_folder(std::filesystem::path(WICK_MODELS) / "tales");
  ASSERT_TRUE(chat);
  const OrderedJson golden = OrderedJson::parse(read(std::filesystem::path(WICK_TEST_DATA) / "golden/tales/chat.json"));
  ASSERT_FALSE(golden.empty());
  for (const OrderedJson& c : golden) {
    std::vector<ChatMessage> messages;
    for (const OrderedJson& m : c["messages"]) messages.push_back({m["role"], m["content"]});
    EXPECT_EQ(chat->render(messages, {.add_generation_prompt = c["add_generation_prompt"].get<bool>()}), c["text"]);
  }
}

class Folder : public testing::Test {
 protected:
  void write(const char* name, const std::string& text) const { test::write_file(folder_ / name, text); }
  std::optional<ChatTemplate> load() const { return ChatTemplate::from_folder(folder_.path()); }
  std::string render() const { return load().value().render(std::vector<ChatMessage>{{"user", "hi"}}); }

  test::TempDir folder_;
};

using ChatTemplateFolder = Folder;

TEST_F(ChatTemplateFolder, WithoutTemplateIsNothing) {
  EXPECT_FALSE(load());
  write("tokenizer_config.json", R"({"chat_template": null, "bos_token": "<s>"})");
  EXPECT_FALSE(load());
}

TEST_F(ChatTemplateFolder, ReadsTheConfigAndItsTokens) {
  write(
      "tokenizer_config.json",
      R"({"chat_template": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}", "bos_token": {"content": "<s>"}})");
  write("special_tokens_map.json", R"({"bos_token": "<other>", "eos_token": "</s>"})");
  EXPECT_EQ(render(), "<s>hi</s>");
  write("chat_template.jinja", "file {{ eos_token }}");
  EXPECT_EQ(render(), "file </s>");
  EXPECT_EQ(load()->render({}, {.variables = R"({"eos_token": "E"})"}), "file E");
}

TEST_F(ChatTemplateFolder, ReadsTheDefaultOfAList) {
  write("tokenizer_config.json",
        R"({"chat_template": [{"name": "rag", "template": "no"}, {"name": "default", "template": "yes"}]})");
  EXPECT_EQ(render(), "yes");
  write("tokenizer_config.json", R"({"chat_template": [{"name": "rag", "template": "no"}]})");
  EXPECT_THROW(load(), Error);
  write("tokenizer_config.json", R"({"chat_template": 5})");
  EXPECT_THROW(load(), Error);
}

TEST(ChatTemplate, RepairsBytesThatAreNotUtf8) {
  const ChatTemplate chat = ChatTemplate::parse("{{ messages[0].content|upper }}", "t.jinja");
  EXPECT_EQ(chat.render(std::vector<ChatMessage>{{"user", "a\xff\"\\\n"}}), "A\xEF\xBF\xBD\"\\\n");
  EXPECT_THROW(ChatTemplate::parse("a\xff", "t.jinja"), Error);
}

TEST(ChatTemplate, TojsonEscapesAsPythonDoes) {
  EXPECT_EQ(render("{{ '\x7f \u00e9\U0001f600'|tojson(ensure_ascii=true) }}"), R"("\u007f \u00e9\ud83d\ude00")");
  EXPECT_EQ(render("{{ '\x7f \u00e9'|tojson(ensure_ascii=false) }}"), "\"\x7f \u00e9\"");
}

TEST(ChatTemplate, TojsonKeepsTheOrderOfAMessage) {
  const ChatTemplate chat = ChatTemplate::parse("{{ messages[0]|tojson }}", "t.jinja");
  EXPECT_EQ(chat.render(std::vector<ChatMessage>{{"user", "hi"}}), R"({"role": "user", "content": "hi"})");
}

TEST(ChatTemplate, FormatsTheDate) {
  EXPECT_EQ(render("{{ strftime_now('%d %b %Y')|length }} {{ strftime_now('at %% noon') }}"), "11 at % noon");
  expect_error(ErrorCode::unsupported, "{{ strftime_now('%999999999d') }}", "strftime_now");
}

TEST(ChatTemplate, RefusesVariablesThatAreNotExpected) {
  const ChatTemplate chat = ChatTemplate::parse("x", "t.jinja");
  for (const char* messages : {"", "{}", "[1]", "[", "null"})
    EXPECT_THROW(chat.render_json(messages), Error) << messages;
  for (const char* variables : {"[]", "{", "1"}) {
    EXPECT_THROW(chat.render_json("[]", {.variables = variables}), Error) << variables;
  }
  EXPECT_THROW(chat.render_json(std::string(100000, '[')), Error);
}

TEST(ChatTemplate, PassesOnWhatTheTemplateRaises) {
  expect_error(ErrorCode::invalid_argument, "a\n{{ raise_exception('roles must\nalternate') }}",
               R"(line 2: the template refuses the conversation: "roles must\x0aalternate")");
}

TEST(ChatTemplate, NamesWhatIsNotSupported) {
  constexpr auto kCode = ErrorCode::unsupported;
  expect_error(kCode, "\n{% include 'x' %}", "line 2: the statement \"include\"");
  expect_error(kCode, "{% frobnicate %}", "frobnicate");
  expect_error(kCode, "{% do x %}", "\"do\"");
  expect_error(kCode, "{% for x in y recursive %}{% endfor %}", "recursive");
  expect_error(kCode, "\n\n{{ 1|frobnicate }}", "line 3: the filter \"frobnicate\"");
  expect_error(kCode, "{{ 1 is frobnicated }}", "the test \"frobnicated\"");
  expect_error(kCode, "{{ 'a'.zfill(3) }}", "the method \"zfill\"");
  expect_error(kCode, "{{ messages.append(1) }}", "the method \"append\"");
  expect_error(kCode, "{{ lipsum() }}", "the function \"lipsum\"");
  expect_error(kCode, "{{ f(*x) }}", "unpacking");
  expect_error(kCode, "{{ '%s' % 1 }}", "formatting");
  expect_error(kCode, "{{ 9223372036854775807 + 1 }}", "64 bits");
  expect_error(kCode, "{{ 99999999999999999999 }}", "the number");
  expect_error(kCode, "{{ messages.__class__() }}", "__class__");
}

TEST(ChatTemplate, UndefinedParts) {
  EXPECT_EQ(render("[{{ missing }}{{ messages[0].name }}]"), "[]");
  expect_error(ErrorCode::format, "{{ missing.name }}", R"("missing" is undefined, cannot read "name")");
  expect_error(ErrorCode::format, "{{ 'a' + missing }}", "a string + undefined");
  expect_error(ErrorCode::format, "{{ missing|tojson }}", "tojson of undefined");
  EXPECT_EQ(render("{{ ''.__class__ }}{{ messages.__init__ }}"), "");
}

TEST(ChatTemplate, RefusesBrokenSyntax) {
  for (const char* source : {"{{",
                             "{%",
                             "{#",
                             "{{ }}",
                             "{{ 1",
                             "{{ 'a }}",
                             "{{ (1 }}",
                             "{{ 1) }}",
                             "{{ [1 }}",
                             "{% if %}{% endif %}",
                             "{% if 1 %}",
                             "{% endif %}",
                             "{% else %}",
                             "{% for x %}{% endfor %}",
                             "{% for in y %}{% endfor %}",
                             "{% set %}",
                             "{% set x = %}",
                             "{% set 1 = 2 %}",
                             "{% set true = 2 %}",
                             "{% set a, b %}{% endset %}",
                             "{% macro %}{% endmacro %}",
                             "{% macro m(a=1, b) %}{% endmacro %}",
                             "{% raw %}",
                             "{{ a b }}",
                             "{{ a. }}",
                             "{{ a[] }}",
                             "{{ 1a }}",
                             "{{ '\\x4' }}",
                             "{{ '\\ud800' }}",
                             "{{ a is }}",
                             "{{ a | }}",
                             "{{ {1} }}",
                             "{{ @ }}",
                             "{{ a ! b }}",
                             "{% break %}",
                             "{% 1 %}",
                             "{{ f(a=1, 2) }}",
                             "{% if a %}{% endfor %}",
                             "{% for x in y %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}",
                             "{{ a[1:2:3:4] }}",
                             "{{ 012 }}"}) {
    expect_error(ErrorCode::format, source, "");
  }
}

TEST(ChatTemplate, RefusesWrongTypes) {
  for (const char* source : {"{{ 1 + 'a' }}",
                             "{{ 1 / 0 }}",
                             "{{ 1 // 0 }}",
                             "{{ 1 % 0 }}",
                             "{{ 0 ** -1 }}",
                             "{{ 1.0 % 0 }}",
                             "{{ -'a' }}",
                             "{{ 1 < 'a' }}",
                             "{{ 1 in 'a' }}",
                             "{{ 1 in 2 }}",
                             "{% for x in 1 %}{% endfor %}",
                             "{{ 1|length }}",
                             "{% for a, b in [1] %}{% endfor %}",
                             "{% set a, b = [1] %}",
                             "{{ {[]: 1} }}",
                             "{{ 'a'[::0] }}",
                             "{{ 'a'['b':] }}",
                             "{% set x = 1 %}{% set x.y = 2 %}",
                             "{{ 1() }}",
                             "{{ 'a'.split('') }}",
                             "{{ 'a'.strip(1) }}",
                             "{{ range() }}",
                             "{{ range(1, 2, 0) }}",
                             "{{ 'a'|trim(1, 2) }}",
                             "{{ 'a'|trim(nope=1) }}",
                             "{{ 'a'|replace('a') }}",
                             "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}",
                             "{% macro m(a) %}{% endmacro %}{{ m(b=1) }}",
                             "{% macro m(a) %}{% endmacro %}{{ m(1, a=1) }}",
                             "{{ [3, 'a']|sort }}",
                             "{{ 1|items }}",
                             "{{ 1|map }}"}) {
    expect_error(ErrorCode::format, source, "");
  }
}

std::string repeated(const std::string& text, std::size_t count) {
  std::string out;
  for (std::size_t i = 0; i < count; ++i) out += text;
  return out;
}

TEST(ChatTemplate, BoundsNesting) {
  constexpr std::size_t kMany = 100000;
  for (const std::string& source :
       {"{{ " + std::string(kMany, '(') + std::string(kMany, ')') + " }}",
        "{{ " + repeated("[", kMany) + repeated("]", kMany) + "}}",
        "{{ " + repeated("{1:", kMany) + repeated("}", kMany) + "}}", "{{ " + repeated("-", kMany) + "1 }}",
        "{{ " + repeated("not ", kMany) + "1 }}", "{{ 1" + repeated(" + 1", kMany) + " }}",
        "{{ 1" + repeated("|trim", kMany) + " }}", "{{ a" + repeated(".a", kMany) + " }}",
        "{{ a" + repeated("[0]", kMany) + " }}", "{{ a" + repeated("()", kMany) + " }}",
        "{{ 1" + repeated(" if 1", kMany) + " }}", "{{ 1" + repeated(" if 1 else 1", kMany) + " }}",
        "{{ 1" + repeated(" ** 1", kMany) + " }}", repeated("{% if 1 %}", kMany), repeated("{% for x in y %}", kMany),
        std::string("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"),
        std::string("{% macro m(x) %}{% if x %}{{ m(x + 1) }}{% endif %}{% endmacro %}{{ m(1) }}"),
        std::string("{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}")}) {
    expect_error(ErrorCode::format, source, "nested deeper than");
  }
  EXPECT_EQ(render("{{ 1" + repeated(" ~ 1", 500) + " }}"), std::string(501, '1'));
  EXPECT_EQ(render(repeated("{% if 1 %}x{% endif %}", 5000)), std::string(5000, 'x'));
}

TEST(ChatTemplate, BoundsTimeAndMemory) {
  for (const char* source : {
           "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
           "{{ 'a' * 999999999999 }}",
           "{{ 'aaaa' * 4611686018427387904 }}",
           "{{ [1] * 99999999999 }}",
           "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
           "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
           "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x.replace('a', 'aa') %}{% endfor "
           "%}",
           "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
           "{% set ns = namespace(x=1, y=1) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}"
           "{% set ns.y = [ns.y, ns.y] %}{% endfor %}{{ ns.x == ns.y }}",
           "{{ 'a'|indent(99999999999) }}",
           "{{ [1]|tojson(indent=99999999999) }}",
           "{{ (range(99999)|list)|unique|list|length }}",
           "{% set x = 'a' * 1000000 %}{% for i in range(99999) %}{{ x.split('a')|length }}{% endfor %}",
       }) {
    SCOPED_TRACE(source);
    try {
      render(source);
      ADD_FAILURE() << "rendered";
    } catch (const Error& error) {
      EXPECT_TRUE(error.code() == ErrorCode::format || error.code() == ErrorCode::unsupported) << error.what();
    }
  }
  expect_error(ErrorCode::format, "{{ range(100001)|length }}", "range()");
  expect_error(ErrorCode::format, "{% for a in range(90) %}{{ 'a' * 1000000 }}{% endfor %}", "the output exceeds");
}

TEST(ChatTemplate, ValuesMayOutliveTheirBlock) {
  EXPECT_EQ(
      render("{% set ns = namespace() %}{% for i in [7, 8] %}{% macro m() %}{{ i }}{% endmacro %}{% set ns.m = m %}"
             "{% set ns.l = loop %}{% set ns.ns = ns %}{% endfor %}{{ ns.m() }}{{ ns.ns.ns.l.length }}"),
      "82");
}

TEST(ChatTemplate, CutsAndChangesOfATemplateNeverCrash) {
  const std::filesystem::path folder = std::filesystem::path(WICK_TEST_DATA) / "chat";
  const auto attempt = [](const std::string& source) {
    try {
      render(source);
    } catch (const Error&) {
    }
  };
  constexpr std::string_view kBytes = "{}%#-'\"()[]|.,: \n1a~";
  for (const char* file : {"expressions.jinja", "macros.jinja", "loops.jinja", "whitespace.jinja"}) {
    const std::string source = read(folder / file);
    for (std::size_t i = 0; i < source.size(); i += 3) {
      attempt(source.substr(0, i));
      std::string changed = source;
      changed[i] = kBytes[(i * 7) % kBytes.size()];
      attempt(changed);
      attempt(changed.erase(i, 2));
    }
  }
}

}  // namespace
}  // namespace wick
