# extract-vmlinux.py VMLINUZ VMLINUX — the ELF file in a bzImage that is compressed with xz or zstd
import sys,lzma,subprocess
d=open(sys.argv[1],'rb').read()
def xz(b): return lzma.LZMADecompressor().decompress(b)
def zs(b): return subprocess.run(['zstd','-dcq'],input=b,capture_output=True).stdout
for magic,f in ((b'\xfd7zXZ\x00',xz),(b'\x28\xb5\x2f\xfd',zs)):
    i=d.find(magic)
    while i>=0:
        try: v=f(d[i:])
        except lzma.LZMAError: v=b''
        if v[:4]==b'\x7fELF':
            open(sys.argv[2],'wb').write(v); print('ELF',len(v),'from offset',i); sys.exit(0)
        i=d.find(magic,i+1)
sys.exit('no compressed ELF found')
