//! Relations: `tcp[13] & 2 != 0`, `len > 1000`.

use super::super::FilterError;
use super::super::eval::{Base, Op, Order, Test, Value};
use super::super::words::Word;
use super::Parser;
use super::names::{ethertype, ip_proto, is_proto, named, number};

impl<'a> Parser<'a> {
    /// A relation, if one begins here: what looks like a value may be an address or a parenthesis.
    pub(super) fn relation(&mut self) -> Result<Option<Test>, FilterError> {
        let begin = self.at;
        let Some(word) = self.peek() else { return Ok(None) };
        let load = is_proto(word.text) && self.words.get(begin + 1).is_some_and(|w| w.text == "[");
        let load = load || word.text == "len";
        let may = load
            || matches!(word.text, "(" | "-")
            || number(word.text).is_some()
            || named(word.text).is_some();
        if !may {
            return Ok(None);
        }
        let left = self.deeper(|p| p.value(0));
        let left = match (left, self.peek().and_then(order)) {
            (Ok(left), Some(order)) => (left, order),
            // A load is nothing but a part of a relation.
            (Err(why), _) if load => return Err(why),
            (Ok(_), None) if load => {
                let why = "a comparison (=, !=, <, >, <=, >=) is missing";
                return Err(match self.peek() {
                    Some(word) => self.at_word(word, format!("{why} before it")),
                    None => self.at_end("a comparison (=, !=, <, >, <=, >=)"),
                });
            }
            _ => {
                self.at = begin;
                return Ok(None);
            }
        };
        self.at += 1;
        let right = self.deeper(|p| p.value(0))?;
        Ok(Some(Test::Relation(left.0, left.1, right)))
    }

    /// A value whose operators bind at least as `least`.
    fn value(&mut self, least: u8) -> Result<Value, FilterError> {
        let mut left = self.operand()?;
        while let Some((op, bind)) = self.peek().and_then(operator).filter(|(_, b)| *b >= least) {
            let sign = self.peek();
            self.at += 1;
            let right = self.deeper(|p| p.value(bind + 1))?;
            if matches!(op, Op::Div | Op::Mod) && right.constant() == Some(0) {
                let sign = sign.ok_or_else(|| self.at_end("an operator"))?;
                return Err(self.at_word(sign, "nothing is divided by zero"));
            }
            left = Value::Op(op, Box::new(left), Box::new(right));
        }
        Ok(left)
    }

    fn operand(&mut self) -> Result<Value, FilterError> {
        let word = self.word("a number, len or bytes of a header")?;
        match word.text {
            "(" => {
                let inner = self.deeper(|p| p.value(0))?;
                self.close(")")?;
                Ok(inner)
            }
            "-" => {
                let inner = self.deeper(Parser::operand)?;
                Ok(Value::Op(Op::Sub, Box::new(Value::Number(0)), Box::new(inner)))
            }
            "len" => Ok(Value::Len),
            text if is_proto(text) && self.take("[") => self.load(word),
            text => match number(text).or_else(|| named(text)) {
                Some(n) => Ok(Value::Number(n)),
                None => Err(self.at_word(word, "it is no number, no len and no bytes of a header")),
            },
        }
    }

    /// `proto[at]` or `proto[at:size]`, behind the bracket.
    fn load(&mut self, proto: Word<'a>) -> Result<Value, FilterError> {
        let at = Box::new(self.deeper(|p| p.value(0))?);
        let mut size = 1;
        if self.take(":") {
            let word = self.word("a size of 1, 2 or 4")?;
            size = match word.text {
                "1" => 1,
                "2" => 2,
                "4" => 4,
                _ => return Err(self.at_word(word, "bytes are loaded by 1, 2 or 4")),
            };
        }
        self.close("]")?;
        let base = match (proto.text, ethertype(proto.text), ip_proto(proto.text)) {
            ("ether" | "link", ..) => Base::Link,
            (_, Some(value), _) => Base::Network(value),
            ("icmp6", ..) => Base::Icmp6,
            (_, _, Some((value, ..))) => Base::Transport(value),
            _ => return Err(self.at_word(proto, "it is no protocol")),
        };
        Ok(Value::Load { vlans: self.vlans, base, at, size })
    }
}

fn order(word: Word<'_>) -> Option<Order> {
    Some(match word.text {
        "=" | "==" => Order::Equal,
        "!=" => Order::Unequal,
        "<" => Order::Less,
        ">" => Order::Greater,
        "<=" => Order::AtMost,
        ">=" => Order::AtLeast,
        _ => return None,
    })
}

/// An operator and how tightly it binds, as in libpcap's grammar: `|` and `&` alike, the weakest.
fn operator(word: Word<'_>) -> Option<(Op, u8)> {
    Some(match word.text {
        "|" => (Op::Or, 0),
        "&" => (Op::And, 0),
        "^" => (Op::Xor, 4),
        "<<" => (Op::Shl, 1),
        ">>" => (Op::Shr, 1),
        "+" => (Op::Add, 2),
        "-" => (Op::Sub, 2),
        "*" => (Op::Mul, 3),
        "/" => (Op::Div, 3),
        "%" => (Op::Mod, 3),
        _ => return None,
    })
}
