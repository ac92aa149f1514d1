//! Label selectors as Calico writes them: `rack == 'r1' && !has(spare)`.
//!
//! In flow: the text of a `nodeSelector` or `peerSelector`. Out flow: [`Selector`], which is asked
//! whether labels match, or a sentence about what is wrong with the text. An absent label is different
//! from every value: `x != 'y'` and `x not in {'y'}` hold for a node without the label `x`.
//!
//! ```text
//!  or   = and { "||" and }        and = not { "&&" not }        not = [ "!" ] atom
//!  atom = "(" or ")" | "all()" | "global()" | "has(" label ")" | label operator
//!  operator = ("==" | "!=") text | ["not"] "in" "{" [text {"," text}] "}"
//!           | "contains" text | "starts with" text | "ends with" text
//! ```

use std::collections::BTreeMap;

/// Nesting that is followed at most, so that a hostile text cannot exhaust the stack.
const MAXIMUM_DEPTH: usize = 32;

/// A condition on labels.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Selector(Expression);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Expression {
    All,
    Has(String),
    Value(String, Test),
    Not(Box<Expression>),
    And(Vec<Expression>),
    Or(Vec<Expression>),
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Test {
    Equal(String),
    In(Vec<String>),
    Contains(String),
    StartsWith(String),
    EndsWith(String),
}

impl Selector {
    /// Reads a selector; an empty text selects everything.
    ///
    /// # Errors
    /// What is wrong with it and where, as a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let tokens = tokens(text)?;
        if tokens.is_empty() {
            return Ok(Self(Expression::All));
        }
        let mut parser = Parser { text, tokens: &tokens, next: 0, depth: 0 };
        let expression = parser.or()?;
        match parser.peek() {
            None => Ok(Self(expression)),
            Some(_) => Err(parser.wrong("`&&`, `||` or the end")),
        }
    }

    /// Whether a node with these labels is selected.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.matches(labels)
    }
}

impl Expression {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::All => true,
            Self::Has(label) => labels.contains_key(label),
            Self::Value(label, test) => labels.get(label).is_some_and(|value| test.holds(value)),
            Self::Not(inner) => !inner.matches(labels),
            Self::And(parts) => parts.iter().all(|part| part.matches(labels)),
            Self::Or(parts) => parts.iter().any(|part| part.matches(labels)),
        }
    }
}

impl Test {
    fn holds(&self, value: &str) -> bool {
        match self {
            Self::Equal(text) => value == text,
            Self::In(texts) => texts.iter().any(|text| value == text),
            Self::Contains(text) => value.contains(text.as_str()),
            Self::StartsWith(text) => value.starts_with(text.as_str()),
            Self::EndsWith(text) => value.ends_with(text.as_str()),
        }
    }
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Kind {
    /// `(`, `)`, `{`, `}`, `,`, `!`, `==`, `!=`, `&&`, `||`.
    Sign(&'static str),
    /// A label or a word of the language.
    Word(String),
    /// A quoted text.
    Text(String),
}

#[derive(Clone, Debug)]
struct Token {
    kind: Kind,
    /// Octets before it.
    at: usize,
}

const SIGNS: [&str; 10] = ["==", "!=", "&&", "||", "(", ")", "{", "}", ",", "!"];

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(char) = text[at..].chars().next() {
        let rest = &text[at..];
        if char.is_whitespace() {
            at += char.len_utf8();
        } else if let Some(sign) = SIGNS.into_iter().find(|sign| rest.starts_with(sign)) {
            tokens.push(Token { kind: Kind::Sign(sign), at });
            at += sign.len();
        } else if char == '\'' || char == '"' {
            let Some(length) = rest[1..].find(char) else {
                return Err(format!("`{text}`: the quote at character {} is not closed", at + 1));
            };
            tokens.push(Token { kind: Kind::Text(rest[1..=length].to_owned()), at });
            at += length + 2;
        } else {
            let word = |char: char| char.is_ascii_alphanumeric() || "-_./".contains(char);
            let length = rest.find(|char| !word(char)).unwrap_or(rest.len());
            if length == 0 {
                return Err(format!("`{text}`: `{char}` at character {} has no meaning", at + 1));
            }
            tokens.push(Token { kind: Kind::Word(rest[..length].to_owned()), at });
            at += length;
        }
    }
    Ok(tokens)
}

struct Parser<'a> {
    text: &'a str,
    tokens: &'a [Token],
    next: usize,
    depth: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Kind> {
        self.tokens.get(self.next).map(|token| &token.kind)
    }

    fn take_sign(&mut self, sign: &str) -> bool {
        let found = matches!(self.peek(), Some(Kind::Sign(found)) if *found == sign);
        self.next += usize::from(found);
        found
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Some(Kind::Word(found)) if found == word);
        self.next += usize::from(found);
        found
    }

    fn need_sign(&mut self, sign: &str) -> Result<(), String> {
        if self.take_sign(sign) { Ok(()) } else { Err(self.wrong(&format!("`{sign}`"))) }
    }

    fn wrong(&self, wanted: &str) -> String {
        match self.tokens.get(self.next) {
            Some(token) => {
                format!("`{}`: {wanted} belongs at character {}", self.text, token.at + 1)
            }
            None => format!("`{}`: {wanted} is missing at the end", self.text),
        }
    }

    fn or(&mut self) -> Result<Expression, String> {
        let mut parts = vec![self.and()?];
        while self.take_sign("||") {
            parts.push(self.and()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Expression::Or(parts) })
    }

    fn and(&mut self) -> Result<Expression, String> {
        let mut parts = vec![self.not()?];
        while self.take_sign("&&") {
            parts.push(self.not()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Expression::And(parts) })
    }

    fn not(&mut self) -> Result<Expression, String> {
        let mut negated = false;
        while self.take_sign("!") {
            negated = !negated;
        }
        let inner = self.atom()?;
        Ok(if negated { Expression::Not(Box::new(inner)) } else { inner })
    }

    fn atom(&mut self) -> Result<Expression, String> {
        if self.take_sign("(") {
            self.depth += 1;
            if self.depth > MAXIMUM_DEPTH {
                return Err(format!("`{}` is nested too deeply", self.text));
            }
            let inner = self.or()?;
            self.need_sign(")")?;
            self.depth -= 1;
            return Ok(inner);
        }
        let Some(Kind::Word(word)) = self.peek().cloned() else {
            return Err(self.wrong("a label, `has(…)`, `all()` or `(`"));
        };
        self.next += 1;
        if self.take_sign("(") {
            return match word.as_str() {
                "all" | "global" => self.need_sign(")").map(|()| Expression::All),
                "has" => {
                    let Some(Kind::Word(label)) = self.peek().cloned() else {
                        return Err(self.wrong("a label"));
                    };
                    self.next += 1;
                    self.need_sign(")").map(|()| Expression::Has(label))
                }
                _ => Err(format!("`{}`: there is no `{word}()`; all() and has(…) are", self.text)),
            };
        }
        self.comparison(word)
    }

    fn comparison(&mut self, label: String) -> Result<Expression, String> {
        let not = |expression| Expression::Not(Box::new(expression));
        if self.take_sign("==") {
            return Ok(Expression::Value(label, Test::Equal(self.value()?)));
        }
        if self.take_sign("!=") {
            return Ok(not(Expression::Value(label, Test::Equal(self.value()?))));
        }
        if self.take_word("in") {
            return Ok(Expression::Value(label, Test::In(self.values()?)));
        }
        if self.take_word("not") {
            if !self.take_word("in") {
                return Err(self.wrong("`in`"));
            }
            return Ok(not(Expression::Value(label, Test::In(self.values()?))));
        }
        if self.take_word("contains") {
            return Ok(Expression::Value(label, Test::Contains(self.value()?)));
        }
        for (word, test) in [
            ("starts", Test::StartsWith as fn(String) -> Test),
            ("ends", Test::EndsWith as fn(String) -> Test),
        ] {
            if self.take_word(word) {
                if !self.take_word("with") {
                    return Err(self.wrong("`with`"));
                }
                return Ok(Expression::Value(label, test(self.value()?)));
            }
        }
        Err(self.wrong(&format!(
            "`==`, `!=`, `in`, `not in`, `contains`, `starts with` or `ends with` after `{label}` (or \
             write has({label}))"
        )))
    }

    fn value(&mut self) -> Result<String, String> {
        let Some(Kind::Text(text)) = self.peek().cloned() else {
            return Err(self.wrong("a value in quotes"));
        };
        self.next += 1;
        Ok(text)
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        self.need_sign("{")?;
        let mut values = Vec::new();
        if self.take_sign("}") {
            return Ok(values);
        }
        loop {
            values.push(self.value()?);
            if self.take_sign("}") {
                return Ok(values);
            }
            self.need_sign(",")?;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels() -> BTreeMap<String, String> {
        [("rack", "r1"), ("kubernetes.io/os", "linux"), ("gpu", "")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    }

    #[test]
    fn selectors_match_as_calico_says() {
        for (text, expected) in [
            ("", true),
            ("all()", true),
            ("global()", true),
            ("!all()", false),
            ("has(rack)", true),
            ("has( gpu )", true),
            ("!has(rack)", false),
            ("!!has(rack)", true),
            ("rack == 'r1'", true),
            ("rack == \"r1\"", true),
            ("rack == 'r2'", false),
            ("rack != 'r2'", true),
            ("absent != 'x'", true),
            ("absent == ''", false),
            ("gpu == ''", true),
            ("rack in {'r0', 'r1'}", true),
            ("rack in {}", false),
            ("rack not in {'r1'}", false),
            ("absent not in {'r1'}", true),
            ("kubernetes.io/os contains 'inu'", true),
            ("rack starts with 'r'", true),
            ("rack ends with '1'", true),
            ("rack ends with '2'", false),
            ("rack == 'r2' || has(gpu) && kubernetes.io/os == 'linux'", true),
            ("(rack == 'r2' || has(gpu)) && kubernetes.io/os == 'mac'", false),
            ("rack == 'r1' || has(gpu) && kubernetes.io/os == 'mac'", true),
            ("!(rack == 'r1' && has(gpu))", false),
        ] {
            let selector = Selector::parse(text).expect(text);
            assert_eq!(selector.matches(&labels()), expected, "{text}");
        }
    }

    #[test]
    fn mistakes_name_their_place() {
        for (text, words) in [
            ("rack = 'r1'", "`=` at character 6"),
            ("rack == r1", "a value in quotes belongs at character 9"),
            ("rack == 'r1", "quote at character 9"),
            ("rack", "or write has(rack)"),
            ("has(rack", "`)` is missing at the end"),
            ("has()", "a label belongs at character 5"),
            ("none()", "there is no `none()`"),
            ("rack == 'r1' has(gpu)", "`&&`, `||` or the end belongs at character 14"),
            ("rack in {'a' 'b'}", "`,` belongs at character 14"),
            ("rack not 'a'", "`in`"),
            ("rack starts 'a'", "`with`"),
            ("&&", "a label"),
        ] {
            let error = Selector::parse(text).expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
        let deep = format!("{}all(){}", "(".repeat(100), ")".repeat(100));
        assert!(Selector::parse(&deep).expect_err("deep").contains("nested too deeply"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,40}|[a-c()!&|='{},\" ]{0,40}") {
            let _ = Selector::parse(&text).map(|selector| selector.matches(&labels()));
        }
    }
}
