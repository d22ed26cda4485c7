//! Expressions: a quantity computed from the properties of one event, exactly.
//!
//! Owns: the grammar, its evaluation. Leaves to others: where properties come from, what the quantity is used for.
//!
//! ```text
//! sum      = product { ('+' | '-') product }
//! product  = signed { ('*' | '/') signed }
//! signed   = [ '-' ] atom
//! atom     = decimal | 'event.properties.' name | '(' sum ')' | function '(' sum [ ',' integer ] ')'
//! function = 'round' | 'ceil' | 'floor'
//! ```
//!
//! A name is letters, digits and underscores. The integer of a function is the number of fraction digits that it keeps: 0
//! unless given, and negative for tens and more. `round` takes ties away from zero.
//!
//! Invariants: nothing rounds but the three functions, and a quotient stays a ratio; an expression that was parsed has at
//! most [`EXPRESSION_DEPTH_MAX`] levels, so that evaluating it needs a bounded stack.

use std::fmt;

use domain::{Decimal, Exact, ExactStatus, Rounding};

/// Longest text of an expression, in bytes.
pub(crate) const EXPRESSION_BYTES_MAX: usize = 4_096;
/// Levels of parentheses, functions and signs.
pub(crate) const EXPRESSION_DEPTH_MAX: usize = 64;
/// Fraction digits that a function may keep, or integer digits that it may drop.
const PLACE_MAX: i32 = 38;

/// Why a text is no expression, or an expression has no value; the first broken rule, in order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExpressionStatus {
    /// The text is too long, or nested too deeply.
    TextMustFit,
    /// The grammar has no way to go on at this byte.
    TextMustBeExpression {
        /// Offset of the byte.
        at: usize,
    },
    /// The event has no such property, or it is no number.
    PropertyMustBeNumber,
    /// A division by zero.
    DivisorMustNotBeZero,
    /// The value needs more digits than exact arithmetic has.
    ValueMustFit,
}

impl fmt::Display for ExpressionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExpressionStatus::TextMustFit => write!(
                f,
                "an expression has at most {EXPRESSION_BYTES_MAX} bytes and {EXPRESSION_DEPTH_MAX} levels"
            ),
            ExpressionStatus::TextMustBeExpression { at } => {
                write!(f, "an expression cannot go on like this at byte {at}")
            }
            ExpressionStatus::PropertyMustBeNumber => {
                f.write_str("a property that an expression names must be there, and a number")
            }
            ExpressionStatus::DivisorMustNotBeZero => f.write_str("a divisor must not be zero"),
            ExpressionStatus::ValueMustFit => f.write_str("a value needs more than 256 bits (76 digits)"),
        }
    }
}

impl std::error::Error for ExpressionStatus {}

impl From<ExactStatus> for ExpressionStatus {
    fn from(status: ExactStatus) -> Self {
        match status {
            ExactStatus::DivisorMustNotBeZero => ExpressionStatus::DivisorMustNotBeZero,
            ExactStatus::AmountMustFit => ExpressionStatus::ValueMustFit,
        }
    }
}

/// An expression that was parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expression {
    root: Node,
}

impl Expression {
    /// Parses the whole text.
    ///
    /// # Errors
    /// [`ExpressionStatus::TextMustFit`], [`ExpressionStatus::TextMustBeExpression`].
    ///
    /// # Examples
    /// ```
    /// use billing::rating::expression::Expression;
    /// use domain::Exact;
    ///
    /// let expression = Expression::parse("ceil(event.properties.bytes / 1000) * 2").unwrap();
    /// let value = expression.evaluate(&|name| (name == "bytes").then(|| Exact::from_integer(1_001)));
    /// assert_eq!(value, Ok(Exact::from_integer(4)));
    /// ```
    pub(crate) fn parse(text: &str) -> Result<Self, ExpressionStatus> {
        if text.len() > EXPRESSION_BYTES_MAX {
            return Err(ExpressionStatus::TextMustFit);
        }
        let mut parser = Parser { text, at: 0, depth: 0 };
        let root = parser.sum()?;
        parser.skip_spaces();
        if parser.at < text.len() {
            return Err(parser.refusal());
        }
        Ok(Self { root })
    }

    /// The value for an event with these properties.
    ///
    /// # Errors
    /// The statuses from [`ExpressionStatus::PropertyMustBeNumber`] on.
    pub(crate) fn evaluate(
        &self,
        property: &dyn Fn(&str) -> Option<Exact>,
    ) -> Result<Exact, ExpressionStatus> {
        self.root.value(property)
    }
}

/// A part of an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Number(Exact),
    Property(String),
    Negated(Box<Node>),
    Rounded {
        rounding: Rounding,
        of: Box<Node>,
        place: i32,
    },
    /// A first operand, and what is done to it from left to right.
    Chain {
        first: Box<Node>,
        rest: Vec<(Operator, Node)>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
}

impl Node {
    fn value(&self, property: &dyn Fn(&str) -> Option<Exact>) -> Result<Exact, ExpressionStatus> {
        Ok(match self {
            Node::Number(number) => *number,
            Node::Property(name) => property(name).ok_or(ExpressionStatus::PropertyMustBeNumber)?,
            Node::Negated(node) => node.value(property)?.negate(),
            Node::Rounded { rounding, of, place } => of.value(property)?.round(*rounding, *place)?,
            Node::Chain { first, rest } => {
                let mut value = first.value(property)?;
                for (operator, operand) in rest {
                    let operand = operand.value(property)?;
                    value = match operator {
                        Operator::Add => value.add(operand)?,
                        Operator::Subtract => value.subtract(operand)?,
                        Operator::Multiply => value.multiply(operand)?,
                        Operator::Divide => value.divide(operand)?,
                    };
                }
                value
            }
        })
    }
}

/// Reads a text from left to right, one function for each rule of the grammar.
struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn sum(&mut self) -> Result<Node, ExpressionStatus> {
        self.depth += 1;
        if self.depth > EXPRESSION_DEPTH_MAX {
            return Err(ExpressionStatus::TextMustFit);
        }
        let operators = [('+', Operator::Add), ('-', Operator::Subtract)];
        let node = self.chain(operators, Self::product)?;
        self.depth -= 1;
        Ok(node)
    }

    fn product(&mut self) -> Result<Node, ExpressionStatus> {
        self.chain([('*', Operator::Multiply), ('/', Operator::Divide)], Self::signed)
    }

    /// Operands of one precedence.
    fn chain(
        &mut self,
        operators: [(char, Operator); 2],
        operand: fn(&mut Self) -> Result<Node, ExpressionStatus>,
    ) -> Result<Node, ExpressionStatus> {
        let first = operand(self)?;
        let mut rest = Vec::new();
        while let Some((_, operator)) = operators.iter().find(|(sign, _)| self.takes(*sign)) {
            rest.push((*operator, operand(self)?));
        }
        Ok(if rest.is_empty() { first } else { Node::Chain { first: Box::new(first), rest } })
    }

    fn signed(&mut self) -> Result<Node, ExpressionStatus> {
        if self.takes('-') { Ok(Node::Negated(Box::new(self.atom()?))) } else { self.atom() }
    }

    fn atom(&mut self) -> Result<Node, ExpressionStatus> {
        if self.takes('(') {
            let node = self.sum()?;
            self.expect(')')?;
            return Ok(node);
        }
        let start = self.at;
        let word = self.word(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.');
        let rounding = match word {
            "round" => Rounding::HalfAway,
            "ceil" => Rounding::Ceiling,
            "floor" => Rounding::Floor,
            _ => {
                self.at = start;
                return self.operand(word);
            }
        };
        self.expect('(')?;
        let of = Box::new(self.sum()?);
        let place = if self.takes(',') { self.integer()? } else { 0 };
        self.expect(')')?;
        Ok(Node::Rounded { rounding, of, place })
    }

    /// A word that is a number or names a property.
    fn operand(&mut self, word: &'a str) -> Result<Node, ExpressionStatus> {
        let node = match word.strip_prefix("event.properties.") {
            Some(name) if !name.is_empty() && !name.contains('.') => Node::Property(name.to_string()),
            Some(_) => return Err(self.refusal()),
            None => Node::Number(Decimal::parse(word).map_err(|_| self.refusal())?.into()),
        };
        self.at += word.len();
        Ok(node)
    }

    fn integer(&mut self) -> Result<i32, ExpressionStatus> {
        let is_negative = self.takes('-');
        self.skip_spaces();
        let start = self.at;
        let digits = self.word(|byte| byte.is_ascii_digit());
        let place: Option<i32> = digits.parse().ok().filter(|place| *place <= PLACE_MAX);
        let place = place.ok_or(ExpressionStatus::TextMustBeExpression { at: start })?;
        Ok(if is_negative { -place } else { place })
    }

    /// The longest run of bytes of a kind, after spaces.
    fn word(&mut self, is_inside: fn(u8) -> bool) -> &'a str {
        self.skip_spaces();
        let rest = &self.text[self.at..];
        let end = rest.bytes().position(|byte| !is_inside(byte)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn skip_spaces(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
    }

    /// Whether a sign comes next; it is read if it does.
    fn takes(&mut self, sign: char) -> bool {
        self.skip_spaces();
        let is_next = self.text[self.at..].starts_with(sign);
        if is_next {
            self.at += sign.len_utf8();
        }
        is_next
    }

    fn expect(&mut self, sign: char) -> Result<(), ExpressionStatus> {
        if self.takes(sign) { Ok(()) } else { Err(self.refusal()) }
    }

    fn refusal(&self) -> ExpressionStatus {
        ExpressionStatus::TextMustBeExpression { at: self.at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value(text: &str) -> Result<String, ExpressionStatus> {
        let property = |name: &str| match name {
            "tokens" => Exact::parse("1500"),
            "share_2" => Exact::parse("0.25"),
            _ => None,
        };
        Ok(Expression::parse(text)?.evaluate(&property)?.to_string())
    }

    #[test]
    fn products_come_before_sums_and_both_go_from_left_to_right() {
        for (text, expected) in [
            ("2 - 4", "-2"),
            ("2+3*4", "14"),
            ("(2+3)*4", "20"),
            ("10-4-3", "3"),
            ("100/10/5", "2"),
            ("2 * -3", "-6"),
            ("-(1 + 2) * 3", "-9"),
            ("2 --3", "5"),
            ("1/3", "1/3"),
            ("1/3*3", "1"),
            ("12.50", "12.5"),
            (" 7 ", "7"),
        ] {
            assert_eq!(value(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn only_the_functions_round_at_the_digit_that_they_name() {
        for (text, expected) in [
            ("round(12.345, 2)", "12.35"),
            ("round(-12.345,2)", "-12.35"),
            ("round(12.5)", "13"),
            ("ceil(12.301, 1)", "12.4"),
            ("ceil(-12.9)", "-12"),
            ("floor(12.3)", "12"),
            ("floor(12.351, 1)", "12.3"),
            ("round(1550, -2)", "1600"),
            ("round(1550, - 2)", "1600"),
            ("round(2/3, 4) + round(round(2.449, 2), 1)", "3.1667"),
        ] {
            assert_eq!(value(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn properties_are_numbers_of_the_event() {
        assert_eq!(value("event.properties.tokens / 1000 * event.properties.share_2"), Ok("0.375".into()));
        assert_eq!(value("event.properties.other"), Err(ExpressionStatus::PropertyMustBeNumber));
        assert_eq!(value("1 / (2 - 2)"), Err(ExpressionStatus::DivisorMustNotBeZero));
    }

    #[test]
    fn what_the_grammar_does_not_say_is_refused_where_it_goes_wrong() {
        for (text, at) in [
            ("", 0),
            ("1 +", 3),
            ("1 2", 2),
            ("--1", 1),
            ("(1", 2),
            ("1)", 1),
            ("round(1, 1.5)", 10),
            ("round(1, x)", 9),
            ("round 1", 6),
            ("event.properties.", 0),
            ("event.properties.a.b", 0),
            ("tokens", 0),
            ("1e3", 0),
            (".5", 0),
            ("1 % 2", 2),
            ("é", 0),
        ] {
            assert_eq!(value(text), Err(ExpressionStatus::TextMustBeExpression { at }), "{text}");
        }
        let levels = |count: usize| format!("{}1{}", "(".repeat(count), ")".repeat(count));
        assert_eq!(value(&levels(EXPRESSION_DEPTH_MAX - 1)).as_deref(), Ok("1"));
        assert_eq!(value(&levels(EXPRESSION_DEPTH_MAX)), Err(ExpressionStatus::TextMustFit));
        assert_eq!(value(&" ".repeat(EXPRESSION_BYTES_MAX + 1)), Err(ExpressionStatus::TextMustFit));
        let nines = "9".repeat(38);
        assert_eq!(value(&format!("{nines}*{nines}*{nines}")), Err(ExpressionStatus::ValueMustFit));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "[-+*/() ,.0-9a-z_é]{0,40}") {
            let _ = value(&text);
        }
    }
}
