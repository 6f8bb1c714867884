module github.com/xenvnet/xend/tools/book

go 1.26.0

require github.com/yuin/goldmark v1.8.7
