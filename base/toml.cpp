#include "base/toml.h"

#define TOML_EXCEPTIONS                 0
#define TOML_ENABLE_UNRELEASED_FEATURES 0
#define TOML_ENABLE_WINDOWS_COMPAT      0
#include <toml++/toml.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace
{

void write_text(std::string &to, std::string_view text)
{
    to += '"';
    for (unsigned char c : text) {
        if (c == '"' || c == '\\') {
            to += '\\';
            to += static_cast<char>(c);
        } else if (c < 0x20 || c == 0x7f) {
            char escape[8];
            std::snprintf(escape, sizeof escape, "\\u%04x", c);
            to += escape;
        } else {
            to += static_cast<char>(c);
        }
    }
    to += '"';
}

void write_value(std::string &to, const toml::node &value);

/* The library sorts keys by name; which host comes first is said by the file's order. */
void write_table(std::string &to, const toml::table &table)
{
    struct member {
        const toml::key *key;
        const toml::node *value;
    };
    std::vector<member> members;
    for (auto &&[key, value] : table)
        members.push_back({ &key, &value });
    std::stable_sort(members.begin(), members.end(), [](const member &left, const member &right) {
        return left.key->source().begin < right.key->source().begin;
    });
    char separator = '{';
    for (const member &each : members) {
        to += separator;
        separator = ',';
        write_text(to, each.key->str());
        to += ':';
        write_value(to, *each.value);
    }
    to += members.empty() ? "{}" : "}";
}

void write_array(std::string &to, const toml::array &array)
{
    to += '[';
    for (std::size_t i = 0; i < array.size(); i++) {
        if (i > 0) to += ',';
        write_value(to, array[i]);
    }
    to += ']';
}

template <class Value> void write_printed(std::string &to, const Value &value)
{
    std::ostringstream text;
    text << value;
    write_text(to, text.str());
}

void write_number(std::string &to, double number)
{
    char text[40];
    std::snprintf(text, sizeof text, "%.17g", number);
    to += std::isfinite(number) ? text : "null";
}

/* The parser bounds how deep values are nested. */
void write_value(std::string &to, const toml::node &value)
{
    if (const toml::table *table = value.as_table())
        write_table(to, *table);
    else if (const toml::array *array = value.as_array())
        write_array(to, *array);
    else if (const auto *text = value.as_string())
        write_text(to, text->get());
    else if (const auto *flag = value.as_boolean())
        to += flag->get() ? "true" : "false";
    else if (const auto *integer = value.as_integer())
        to += std::to_string(integer->get());
    else if (const auto *number = value.as_floating_point())
        write_number(to, number->get());
    else if (const auto *date = value.as_date())
        write_printed(to, date->get());
    else if (const auto *time = value.as_time())
        write_printed(to, time->get());
    else if (const auto *both = value.as_date_time())
        write_printed(to, both->get());
    else
        to += "null";
}

char *convert(std::string_view text, unsigned *ret_line, char *message)
{
    toml::parse_result parsed = toml::parse(text);
    if (!parsed) {
        const toml::parse_error &error = parsed.error();
        *ret_line = error.source().begin.line ? error.source().begin.line : 1;
        std::snprintf(message, TOML_MESSAGE_SIZE, "%.*s",
                      static_cast<int>(error.description().size()), error.description().data());
        return nullptr;
    }
    std::string json;
    write_table(json, parsed.table());
    char *copy = static_cast<char *>(std::malloc(json.size() + 1));
    if (copy) std::memcpy(copy, json.c_str(), json.size() + 1);
    return copy;
}

} // namespace

/* No exception may reach C: what is left to be thrown is want of memory. */
char *toml_as_json(const char *text, size_t length, unsigned *ret_line, char *message)
{
    *ret_line = 0;
    std::snprintf(message, TOML_MESSAGE_SIZE, "out of memory");
    try {
        return convert(std::string_view(text, length), ret_line, message);
    } catch (...) {
        *ret_line = 0;
        return nullptr;
    }
}
