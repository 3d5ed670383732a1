//! linerate-dev
