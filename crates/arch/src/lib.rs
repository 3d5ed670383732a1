//! linerate-arch
